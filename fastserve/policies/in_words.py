"""Settings, and what a policy does not read of a trace, in words, as tables and reports show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 8
"""Items of a list that are shown; of a longer one the first three and the last."""


def value_in_words(value: object) -> str:
    """Numbers to four digits, whole ones in full; a longer list is abridged."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name}={value_in_words(item)}" for name, item in value.items()) + ")"
    if isinstance(value, list | tuple):
        words = [value_in_words(item) for item in value]
        return ", ".join([*words[:3], "...", words[-1]] if len(words) > SHOWN else words)
    return "none" if value is None else str(value)


def policy_in_words(settings: Mapping[str, Any]) -> str:
    """PolicySpec.told(): "q1=0, ratio=2; on this machine: levels 5, quanta 1, 2, 4, 8, 16"; empty for no settings."""
    own = ", ".join(f"{name}={value_in_words(value)}" for name, value in settings.items() if name != "derived")
    found = ", ".join(f"{name} {value_in_words(value)}" for name, value in settings.get("derived", {}).items())
    return "; ".join([own] * bool(own) + [f"on this machine: {found}"] * bool(found))


def fact_lines(settings: Mapping[str, Any]) -> list[str]:
    """What facts_told() has put among these settings, a line each."""
    unread = [f"{fact} by {', '.join(labels)}" for fact, labels in settings.get("unread", {}).items()]
    missing = [f"{fact}, which {', '.join(labels)} would go by" for fact, labels in settings.get("missing", {}).items()]
    lines = [f"columns of the trace that are not used: {'; '.join(unread)}"] if unread else []
    return lines + ([f"not in the trace, or alike for all: {'; '.join(missing)}"] if missing else [])
