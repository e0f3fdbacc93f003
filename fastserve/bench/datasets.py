"""Datasets, each converted to a Trace: random lengths, ShareGPT conversations, custom prompts.

Flags and defaults are those of `vllm bench serve`; the random numbers differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastserve.bench.prompts import Count
from fastserve.workload import Trace
from fastserve.workload.arrivals import arrival_times
from fastserve.workload.errors import TraceError
from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import IntArray

SHORTEST, LONGEST_PROMPT, LONGEST = 4, 1024, 2048
"""Conversations with fewer tokens on a side, more in the prompt or more in total are skipped, as vLLM does."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """texts: the dataset's prompts; None: prompts are generated to the trace's lengths."""

    trace: Trace
    texts: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Arrival process: all at once at an infinite rate, else Gamma gaps of this shape (1: Poisson).

    Gaps have a mean of 1 / rate and are not rescaled, so the rate of a short run varies.
    """

    rate: float = math.inf
    burstiness: float = 1.0

    def times(self, n: int, seed: int) -> IntArray:
        if not self.burstiness > 0:
            raise TraceError(f"--burstiness {self.burstiness}: it must be above 0")
        if math.isinf(self.rate):
            return np.zeros(n, np.int64)
        spec = "poisson" if self.burstiness == 1 else f"gamma:cv={self.burstiness**-0.5!r}"
        return arrival_times(spec, n, self.rate, seed_sequence(seed, 0))


def random_lengths(
    n: int, arrivals: Arrivals, *, prompt: int = 1024, output: int = 128, spread: float = 0.0, seed: int = 0
) -> Dataset:
    """Lengths uniform within `spread` (0 to below 1, a share) of `prompt` and `output`."""
    if not 0 <= spread < 1:
        raise TraceError(f"--random-range-ratio {spread}: it must be at least 0 and below 1")
    draw = np.random.default_rng(seed_sequence(seed, 1))
    sides = []
    for name, tokens in (("input", prompt), ("output", output)):
        if tokens < 1:
            raise TraceError(f"--random-{name}-len {tokens}: it must be at least 1")
        low, high = math.floor(tokens * (1 - spread)), math.ceil(tokens * (1 + spread))
        sides.append(draw.integers(max(1, low), high, n, endpoint=True))
    return Dataset(_trace("random", "random", arrivals.times(n, seed), sides[0], sides[1]))


def sharegpt(
    path: Path, n: int, arrivals: Arrivals, count: Count, *, output: int | None = None, seed: int = 0
) -> Dataset:
    """First turns of a ShareGPT file, shuffled by `seed`. output: overrides the lengths of the responses."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        turns = [entry["conversations"] for entry in entries if len(entry.get("conversations", ())) >= 2]
        pairs = [(str(turn[0]["value"]), str(turn[1]["value"])) for turn in turns]
    except OSError as error:
        raise TraceError(f"cannot be read ({error.strerror})", str(path)) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise TraceError("not ShareGPT: a JSON list of {conversations: [{value}, {value}, ...]}", str(path)) from None
    rows: list[tuple[str, int, int]] = []
    for at in np.random.default_rng(seed_sequence(seed, 1)).permutation(len(pairs)).tolist():
        if len(rows) == n:
            break
        question, answer = pairs[at]
        if not question or not answer:
            continue
        prompt = count(question)
        tokens = output or count(answer)
        short = prompt < SHORTEST or (output is None and tokens < SHORTEST)
        if not short and prompt <= LONGEST_PROMPT and prompt + tokens <= LONGEST:
            rows.append((question, prompt, tokens))
    return _texts(path, rows, n, arrivals, seed)


def custom(path: Path, n: int, arrivals: Arrivals, count: Count, *, output: int | None = 256, seed: int = 0) -> Dataset:
    """JSON lines with `prompt`, in the order of the file. output: None takes `output_tokens` of each line."""
    rows: list[tuple[str, int, int]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TraceError(f"cannot be read ({error.strerror})", str(path)) from None
    for number, line in enumerate(lines, 1):
        if len(rows) == n:
            break
        if not line.strip():
            continue
        try:
            entry: Any = json.loads(line)
            prompt = entry["prompt"]
            tokens = int(entry["output_tokens"]) if output is None else output
        except (ValueError, TypeError, KeyError):
            wanted = '"prompt"' if output is not None else '"prompt" and "output_tokens"'
            raise TraceError(f"each line must be a JSON object with {wanted}", str(path), number) from None
        if not isinstance(prompt, str) or not prompt or tokens < 1:
            raise TraceError("a prompt must be text, and its output at least one token", str(path), number)
        rows.append((prompt, max(1, count(prompt)), tokens))
    return _texts(path, rows, n, arrivals, seed)


DATASETS: dict[str, Callable[..., Dataset]] = {"random": random_lengths, "sharegpt": sharegpt, "custom": custom}


def _texts(path: Path, rows: list[tuple[str, int, int]], n: int, arrivals: Arrivals, seed: int) -> Dataset:
    if not rows:
        raise TraceError("no usable request in this file", str(path))
    if len(rows) < n:
        rows = [rows[i % len(rows)] for i in range(n)]
    texts, prompts, outputs = zip(*rows, strict=True)
    lengths = [np.array(side, np.int64) for side in (prompts, outputs)]
    return Dataset(_trace(path.stem, str(path), arrivals.times(n, seed), lengths[0], lengths[1]), list(texts))


def _trace(name: str, source: str, arrival: IntArray, prompt: IntArray, output: IntArray) -> Trace:
    return Trace(name=name, source=source, arrival=arrival, prompt=prompt, output=output)
