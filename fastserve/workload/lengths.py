"""Distributions of prompt and output lengths, in tokens.

lognormal:mu,sigma,lo,hi   exp(normal(mu, sigma)), rounded, then clipped to lo..hi
zipf:theta,lo,hi           a length L in lo..hi has probability proportional to L^-theta
fixed:N                    always N
profile:NAME               the quantile tables of a shipped profile (see profile.py)
"""

from __future__ import annotations

import numpy as np

from fastserve.workload.errors import TraceError
from fastserve.workload.profile import Quantiles, load_profile
from fastserve.workload.reader.parse import LARGEST
from fastserve.workload.recipe import parse
from fastserve.workload.trace import IntArray

DISTRIBUTIONS: dict[str, dict[str, float | None]] = {
    "lognormal": {"mu": None, "sigma": None, "lo": 1.0, "hi": None},
    "zipf": {"theta": None, "lo": 1.0, "hi": None},
    "fixed": {"n": None},
}
"""Name -> parameter -> default (None: must be given); `profile:NAME` comes on top."""


def draw_lengths(
    n: int, lengths: str, seed: np.random.SeedSequence, prompt: str | None = None, output: str | None = None
) -> tuple[IntArray, IntArray]:
    """(prompt, output) of n requests, drawn independently from two streams of `seed`.

    `lengths` is the distribution of both; `prompt` and `output` override it for one, without changing the other.
    Where both come from one profile with a largest total, the output is cut to it.
    """
    streams = [np.random.default_rng(child) for child in seed.spawn(2)]
    prompts = draw(prompt or lengths, "prompt", n, streams[0])
    outputs = draw(output or lengths, "output", n, streams[1])
    if lengths.startswith("profile:") and prompt is None and output is None:
        largest = load_profile(lengths.removeprefix("profile:")).max_total
        if largest is not None:
            outputs = np.maximum(np.minimum(outputs, largest - prompts), 1)
    return prompts, outputs


def draw(spec: str, side: str, n: int, rng: np.random.Generator) -> IntArray:
    """n numbers by one of these recipes. side: of a profile, prompt or output."""
    if spec.startswith("profile:"):
        profile = load_profile(spec.removeprefix("profile:"))
        table: Quantiles = profile.prompt if side == "prompt" else profile.output
        return table.at(rng.random(n))
    try:
        name, values = parse(spec, DISTRIBUTIONS)
    except TraceError as error:
        raise TraceError(f"{error} (or profile:NAME)") from None
    if name == "fixed":
        return np.full(n, _tokens(values["n"], spec), np.int64)
    lo, hi = _tokens(values["lo"], spec), _tokens(values["hi"], spec)
    if lo > hi:
        raise TraceError(f"lo exceeds hi in {spec!r}")
    if name == "lognormal":
        if values["sigma"] < 0:
            raise TraceError(f"sigma in {spec!r} must not be negative")
        # Clipping the exponent first keeps exp() finite.
        exponent = np.minimum(values["mu"] + values["sigma"] * rng.standard_normal(n), np.log(LARGEST))
        return np.clip(np.rint(np.exp(exponent)), lo, hi).astype(np.int64)
    cumulative = np.cumsum((np.arange(lo, hi + 1) / lo) ** -values["theta"])
    if not np.isfinite(cumulative[-1]):
        raise TraceError(f"theta in {spec!r} is too far below 0")
    index = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
    drawn: IntArray = np.minimum(index, hi - lo).astype(np.int64)
    return drawn + lo


def _tokens(value: float, spec: str) -> int:
    if value != int(value) or not 1 <= value <= LARGEST:
        raise TraceError(f"{value:g} in {spec!r} is not a number of tokens between 1 and {LARGEST:,}")
    return int(value)
