"""Arrival processes of a given long-run rate.

poisson                      exponential gaps
gamma:cv=4                   independent Gamma gaps of that coefficient of variation: shape 1/cv^2, scale cv^2/rate
onoff:on=10,off=30           Poisson bursts: phases of exponential length with these means (s), no arrival in an off
                             phase (the interrupted Poisson process)
mmpp:rates=1/5,stay=60/20    the Markov-modulated Poisson process: states in turn, each of exponential length with its
                             mean stay (s); the rates are to one another as these
diurnal:period=86400,peak=3  Poisson whose rate swings with this period (s); at its peak it is so many times the mean
deterministic                equal gaps
"""

from __future__ import annotations

import numpy as np

from fastserve.workload.errors import TraceError
from fastserve.workload.modulated import Floats, bursts, daily, in_states
from fastserve.workload.recipe import Listed, parse_lists
from fastserve.workload.trace import IntArray

PROCESSES: Listed = {
    "poisson": {},
    "gamma": {"cv": None},
    "onoff": {"on": 10.0, "off": 30.0},
    "mmpp": {"rates": (1.0, 5.0), "stay": (60.0, 20.0)},
    "diurnal": {"period": 86400.0, "peak": 3.0},
    "deterministic": {},
}

EXAMPLES = (
    "poisson, gamma:cv=4, onoff:on=10,off=30 or mmpp:rates=1/5,stay=60/20 (mean seconds), "
    "diurnal:period=86400,peak=3 (s, times the mean) or deterministic"
)
"""In words, for messages."""

MOST = 50_000_000
"""Requests; some 100 bytes each."""

WHOLE, DAY_OFF, PHASES_OFF = 0.9, 0.05, 0.1
"""Of a period, and of the rate that was asked for: what uneven() lets pass."""


def arrival_times(spec: str, n: int, rate: float, seed: np.random.SeedSequence) -> IntArray:
    """n arrivals in ns, the first at 0, of `rate` requests/s in the long run.

    Rounded to whole microseconds, so that the last bit of a mathematical library does not show. One seed gives the
    same gaps at every rate, up to the factor (onoff, mmpp, diurnal: only while the phases or the period scale too).
    """
    name, values = parse_lists(spec, PROCESSES)
    if n < 1:
        raise TraceError(f"cannot synthesise {n} requests; ask for at least 1")
    if n > MOST:
        raise TraceError(f"cannot synthesise {n:,} requests; ask for at most {MOST:,}, which is what fits in memory")
    if not 0 < rate < float("inf"):
        raise TraceError(f"a rate must be a positive number of requests per second, not {rate}")
    bad = [key for key, numbers in values.items() if key != "rates" and not min(numbers) > 0]
    if bad:
        raise TraceError(f"{bad[0]} in {spec!r} must be positive")
    rng, phases = map(np.random.default_rng, seed.spawn(2))
    seconds = _seconds(spec, name, values, n, rate, rng, phases)
    seconds = seconds - seconds[0]
    if not seconds[-1] <= 2**62 / 1e9:
        raise TraceError(f"{n:,} requests at {rate:g} per second last longer than 146 years")
    micros: IntArray = np.round(seconds * 1e6).astype(np.int64)
    return micros * 1000


def _seconds(
    spec: str, name: str, values: dict[str, tuple[float, ...]], n: int, rate: float,
    rng: np.random.Generator, phases: np.random.Generator,
) -> Floats:  # fmt: skip
    """s, from any origin."""
    if name == "deterministic":
        return np.arange(n) / rate
    if name == "gamma":
        shape = values["cv"][0] ** -2
        return np.cumsum(rng.standard_gamma(shape, n) / shape) / rate
    steady: Floats = np.cumsum(rng.standard_exponential(n)) / rate
    if name == "onoff":
        return bursts(spec, steady, values["on"][0], values["off"][0], phases)
    if name == "mmpp":
        return in_states(spec, steady, values["rates"], values["stay"], phases)
    return daily(spec, steady, values["period"][0], values["peak"][0]) if name == "diurnal" else steady


def uneven(spec: str, n: int, asked: float, came: float) -> str:
    """What is to be said of n arrivals that came at another rate (requests/s) than was asked for because they are too
    few for that of their process to even out, or that see no whole period of it; else "".
    """
    name, values = parse_lists(spec, PROCESSES)
    off = abs(came / asked - 1)
    rates = f"came at {came:.3g} requests/s where {asked:.3g} were asked for"
    if name == "diurnal":
        period = values["period"][0]
        periods = n / came / period
        if periods > WHOLE and off < DAY_OFF:
            return ""
        whole = max(1, round(periods))
        return (
            f"{spec}: {n:,} requests are {periods:.2g} of its periods, and {rates}; take whole ones, "
            f"period={n / asked / whole:.0f} or n={asked * period * whole:,.0f}"
        )
    if name in ("onoff", "mmpp") and off > PHASES_OFF:
        return f"{spec}: {n:,} requests {rates}; take more (n), or shorter phases, and it evens out"
    return ""
