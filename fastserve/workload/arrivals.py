"""Arrival processes of a given long-run rate.

poisson            exponential gaps
gamma:cv=4         independent Gamma gaps of that coefficient of variation: shape 1/cv^2, scale cv^2/rate
onoff:on=10,off=30 Poisson bursts: phases of exponential length with these means (s), no arrival in an off phase
deterministic      equal gaps
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastserve.workload.errors import TraceError
from fastserve.workload.recipe import parse
from fastserve.workload.trace import IntArray

PROCESSES: dict[str, dict[str, float | None]] = {
    "poisson": {},
    "gamma": {"cv": None},
    "onoff": {"on": 10.0, "off": 30.0},
    "deterministic": {},
}
"""Name -> parameter -> default (None: must be given)."""

Floats = npt.NDArray[np.float64]

MOST = 50_000_000
"""Requests; some 100 bytes each."""


def arrival_times(spec: str, n: int, rate: float, seed: np.random.SeedSequence) -> IntArray:
    """n arrivals in ns, the first at 0, of `rate` requests/s in the long run.

    Rounded to whole microseconds, so that the last bit of a mathematical library does not show. One seed gives the
    same gaps at every rate, up to the factor (onoff: only while the phases scale too).
    """
    name, values = parse(spec, PROCESSES)
    if n < 1:
        raise TraceError(f"cannot synthesise {n} requests; ask for at least 1")
    if n > MOST:
        raise TraceError(f"cannot synthesise {n:,} requests; ask for at most {MOST:,}, which is what fits in memory")
    if not 0 < rate < float("inf"):
        raise TraceError(f"a rate must be a positive number of requests per second, not {rate}")
    bad = [key for key, value in values.items() if not value > 0]
    if bad:
        raise TraceError(f"{bad[0]} in {spec!r} must be positive")
    rng, phases = map(np.random.default_rng, seed.spawn(2))
    if name == "deterministic":
        seconds = np.arange(n) / rate
    elif name == "gamma":
        shape = values["cv"] ** -2
        seconds = np.cumsum(rng.standard_gamma(shape, n) / shape) / rate
    else:
        seconds = np.cumsum(rng.standard_exponential(n)) / rate
        if name == "onoff":
            seconds = _bursts(seconds, values["on"], values["off"], phases)
    seconds = seconds - seconds[0]
    if seconds[-1] > 2**62 / 1e9:
        raise TraceError(f"{n:,} requests at {rate:g} per second last longer than 146 years")
    micros: IntArray = np.round(seconds * 1e6).astype(np.int64)
    return micros * 1000


def _bursts(work: Floats, on: float, off: float, rng: np.random.Generator) -> Floats:
    """Moves events of a steady Poisson process into the on phases.

    The share of time on is on / (on + off); within it the clock of the process runs faster by the inverse.
    """
    busy = work * (on / (on + off))
    lengths = np.empty(0)
    while lengths.sum() <= busy[-1]:
        lengths = np.append(lengths, rng.standard_exponential(64 + len(lengths)) * on)
    pauses = rng.standard_exponential(len(lengths)) * off
    ends = np.cumsum(lengths)
    before = np.cumsum(pauses) - pauses
    return busy + before[np.searchsorted(ends, busy)]
