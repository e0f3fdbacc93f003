"""Poisson processes whose rate changes: the arrivals of a steady one, moved.

Where Lambda(t) is the number of arrivals expected by t over the long-run rate, the arrivals of a steady process at w
become those at Lambda^-1(w): a non-homogeneous Poisson process by inversion (Cinlar, Introduction to Stochastic
Processes, 1975, section 4.7). So a seed has the same steady arrivals under each process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastserve.workload.errors import TraceError

Floats = npt.NDArray[np.float64]

MOST_PHASES = 5_000_000
"""In the mean, of a trace; some 50 bytes each."""

MOST_PEAK = 100.0
STEPS = 4096
"""Of a period, in each of which its rate is constant; the narrowest peak (of MOST_PEAK) is 16 of them wide."""

LONGEST_PERIOD = 1e9
"""s, 32 years: beyond, microseconds do not show any more."""


def bursts(spec: str, work: Floats, on: float, off: float, rng: np.random.Generator) -> Floats:
    """Moves events of a steady Poisson process, s, into the on phases; it begins in one.

    The share of time on is on / (on + off); within it the clock of the process runs faster by the inverse. The
    interrupted Poisson process: Kuczura, Bell System Technical Journal 52(3), 1973.
    """
    busy = work * (on / (on + off))
    _check_phases(spec, busy[-1] / on)
    lengths = np.empty(0)
    while lengths.sum() <= busy[-1]:
        lengths = np.append(lengths, rng.standard_exponential(64 + len(lengths)) * on)
    pauses = rng.standard_exponential(len(lengths)) * off
    ends = np.cumsum(lengths)
    before = np.cumsum(pauses) - pauses
    return busy + before[np.searchsorted(ends, busy)]


def in_states(
    spec: str, work: Floats, rates: Sequence[float], stay: Sequence[float], rng: np.random.Generator
) -> Floats:
    """The same by states that follow each other in turn, each of exponential length: the Markov-modulated Poisson
    process (Fischer and Meier-Hellstern, The MMPP cookbook, Performance Evaluation 18, 1993), of two states that of
    Heffes and Lucantoni (IEEE JSAC 4(6), 1986).

    rates: of the states to one another; 0 is silence. stay: s, mean. It begins in a state by its share of the time.
    """
    if len(rates) != len(stay) or len(rates) < 2:
        raise TraceError(
            f"{spec!r} has {len(rates)} rates and {len(stay)} stays; write one of each for every state, two or more, "
            "as mmpp:rates=1/5,stay=60/20"
        )
    if min(rates) < 0 or not max(rates) > 0:
        raise TraceError(f"the rates in {spec!r} must not be negative, and one must be above 0")
    relative, means = np.array(rates) / max(rates), np.array(stay)
    relative /= np.sum(relative * means) / means.sum()  # of each state over the long-run rate
    if not np.isfinite(relative).all():
        raise TraceError(f"the rates and stays in {spec!r} are too far from one another")
    states = len(rates)
    first = int(np.searchsorted(np.cumsum(means) / means.sum(), rng.random(), side="right").clip(0, states - 1))
    _check_phases(spec, work[-1] / means.sum() * states)
    lengths, done, state = np.empty(0), 0.0, first
    speed = np.empty(0)
    while done <= work[-1]:
        which = (state + np.arange(states * (16 + len(lengths) // states))) % states
        lengths = np.append(lengths, rng.standard_exponential(len(which)) * means[which])
        speed = np.append(speed, relative[which])
        done = float(np.sum(lengths * speed))
        state = int(which[-1] + 1) % states
    ends = np.cumsum(lengths * speed)
    # The first phase that ends behind an event: of positive speed, for one of speed 0 ends where it began.
    phase = np.minimum(np.searchsorted(ends, work, side="right"), np.flatnonzero(speed)[-1])
    began = np.cumsum(lengths) - lengths
    found: Floats = began[phase] + (work - (ends - lengths * speed)[phase]) / speed[phase]
    return found


def daily(spec: str, work: Floats, period: float, peak: float) -> Floats:
    """The same by a rate of mean * exp(k cos(2 pi t / period)) / I0(k), with k such that its peak is `peak` times the
    mean: the exponential of a trigonometric polynomial, which is never negative however high the peak (Lee, Wilson and
    Crawford, Communications in Statistics - Simulation and Computation 20(3), 1991).

    period: s. It begins where the rate is the mean one and rises, so that a trace shorter than a period is not all
    night; the long-run rate is that of whole periods.
    """
    if not 1 <= peak <= MOST_PEAK:
        raise TraceError(
            f"peak in {spec!r} is {peak:g}: it is the rate at the peak over the mean rate, from 1 (no change) to "
            f"{MOST_PEAK:g}"
        )
    if period > LONGEST_PERIOD:
        raise TraceError(f"period in {spec!r} is {period:g} s; ask for at most {LONGEST_PERIOD:g}")
    angle = np.linspace(0, 2 * np.pi, STEPS + 1)
    low, high = 0.0, peak**2 * 8  # peak^2 / (2 pi) in the limit of high ones
    for _ in range(100):
        k = (low + high) / 2
        low, high = (k, high) if 1 / np.exp(k * (np.cos(angle[1:]) - 1)).mean() < peak else (low, k)
    height = np.exp(low * (np.cos(angle) - 1))
    height /= height[1:].mean()
    # cos is what makes the rate the mean one, and on the way up.
    shift = 2 * np.pi - np.arccos(np.clip(1 - np.log(peak) / low, -1, 1)) if low > 1e-9 else 0.0
    share = np.concatenate([[0.0], np.cumsum((height[1:] + height[:-1]) / 2) / STEPS])  # of a period's arrivals, by t
    share /= share[-1]
    origin = float(np.interp(shift, angle, share))
    cycles, rest = np.divmod(work / period + origin, 1.0)
    return (cycles + np.interp(rest, share, angle) / (2 * np.pi)) * period


def _check_phases(spec: str, expected: float) -> None:
    if expected > MOST_PHASES:
        raise TraceError(
            f"{spec!r} has some {expected:,.3g} phases by the last request; ask for longer ones, or fewer requests "
            f"(at most {MOST_PHASES:,})"
        )
