"""Ollama's API, as both sides of it know it: its names of options, its durations, its lists of parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

OPTIONS: Final[Mapping[str, str]] = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
}
"""Field of OpenAI's API and vLLM's beyond it -> its name among Ollama's options."""

LATEST: Final = ":latest"
"""Tag of a model that is named without one."""

UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST: Final = 64
"""Characters of a duration."""

DURATION: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,9})?)(ns|us|µs|ms|s|m|h)")


def seconds_of(value: float | str) -> float:
    """A time to keep a model: a number of seconds, or text as 5m or 1h30m; infinite for a negative one.

    Raises ValueError.
    """
    text = str(value).strip()
    if len(text) > LONGEST:
        raise ValueError(wrong_duration(text))
    with suppress(ValueError):
        if not math.isnan(number := float(text)):
            return math.inf if number < 0 else number
    negative, rest = text.startswith("-"), text.removeprefix("-").removeprefix("+")
    parts = DURATION.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(wrong_duration(text))
    return math.inf if negative else sum(float(number) * UNITS[unit] for number, unit in parts)


def wrong_duration(text: str) -> str:
    return f"{text[:40]!r} is no time: give seconds, text as 5m or 1h30m, -1 for always or 0 for not at all"


def parameters(text: str) -> dict[str, float]:
    """The numbers of a model's `parameters`: a name and a value a line."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        with suppress(ValueError):
            found[name] = float(value)
    return found


def same_model(name: str) -> tuple[str, ...]:
    """The names that mean this model, the likeliest first: with the tag `latest` and without it."""
    return (name, name.removesuffix(LATEST)) if name.endswith(LATEST) else (name, name + LATEST)
