"""Ratios between runs, with their intervals: the one rule for tables, comparisons and experiments.

A pair is what one seed gave under two policies. The ratio is the mean of the one over the mean of the other. Its
interval comes from how the pairs differ: Student's t on the linearised ratio (the delta method), on a log scale.

    residual_i = base_i - ratio * other_i
    error = stdev(residual) / mean(base) / sqrt(m)
    from ratio * exp(-t * error) to ratio * exp((t + skewed) * error), t of m - 1 degrees of freedom

m, the independent samples behind the seeds, is their number where each seed drew its own. Seeds that are resamples of
one recorded sample show by their spread what that one sample is worth: there m is 1, t has seeds - 1 degrees of
freedom, and more of them make the interval steadier, not narrower.

Mean completion times are skewed: a few seeds meet a burst, the others look alike and make the error too small. A
handful of seeds cannot tell by how much, so that a skewness of SKEWNESS is assumed of the one that varies more, and the
interval reaches further to that side: skewed = SKEWNESS * (2 t^2 + 1) / 6 / sqrt(seeds), the first term of the
Cornish-Fisher expansion of t (Johnson 1978). docs/statistics.md has what it covers, measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

ENOUGH: Final = 4
"""Seeds, or independent samples behind them, below which there is no interval: how two or three values differ says
hardly anything of how more would.
"""

SKEWNESS: Final = 1.0
"""Of what one seed's residual has: 1 to 4 in simulations of 100 to 1,000 jobs at loads of 0.7 to 0.9."""


class Ratio(NamedTuple):
    """A ratio of means with its 95 % interval; None where there are too few seeds for one."""

    mean: float
    low: float | None
    high: float | None


def paired_ratio(baseline: Sequence[float], other: Sequence[float], *, samples: int | None = None) -> Ratio:
    """Mean of `baseline` over mean of `other`, above 1 where `other` is the smaller; one value per seed, paired.

    samples: independent samples behind the seeds; None: as many as seeds; 1: all are resamples of one. No interval
    below ENOUGH seeds, and for any other number of samples below ENOUGH.

    Raises ValueError when the lists differ in length, are empty, or hold values that are not finite and positive.
    """
    base, rest = np.asarray(baseline, dtype=float), np.asarray(other, dtype=float)
    if len(base) != len(rest) or not len(base):
        raise ValueError(f"A paired ratio needs one value per seed on both sides, not {len(base)} and {len(rest)}.")
    if not (np.all(np.isfinite(base) & np.isfinite(rest)) and np.all(base > 0) and np.all(rest > 0)):
        raise ValueError("A paired ratio needs finite values above 0 on both sides.")
    ratio = float(base.mean() / rest.mean())
    seeds = len(base)
    if not enough(seeds, samples):
        return Ratio(ratio, None, None)
    m = seeds if samples is None else min(samples, seeds)
    error = float(np.std(base - ratio * rest, ddof=1) / base.mean()) / sqrt(m)
    t = t_95((seeds if m == 1 else m) - 1)
    near, far = exp(t * error), exp((t + SKEWNESS * (2 * t * t + 1) / 6 / sqrt(seeds)) * error)
    up = base.std() / base.mean() >= rest.std() / rest.mean()
    return Ratio(ratio, ratio / (near if up else far), ratio * (far if up else near))


def enough(seeds: int, samples: int | None) -> bool:
    """Whether there is an interval."""
    return seeds >= ENOUGH and (samples is None or samples == 1 or samples >= ENOUGH)


def resampled(seeds: int, words: str, samples: int | None) -> str:
    """The line under a table: what its intervals are over, or why it has none. words, samples: of a SeedSource."""
    if seeds < 2:
        return f"one seed, so no interval: {ENOUGH} seeds or more give one"
    if seeds < ENOUGH:
        found = f"no interval below {ENOUGH} seeds"
    elif not enough(seeds, samples):
        found = f"no interval: it takes {ENOUGH} independent samples or more"
    else:
        found = f"95 % intervals over {seeds} seeds"
    return f"{found}; {words}" if words else found


def t_95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.2 % from 3 degrees of freedom on (Cornish-Fisher expansion)."""
    z = NormalDist().inv_cdf(0.975)
    n = float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )
