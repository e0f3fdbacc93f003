"""Ratios with intervals: Student's t on pairs, what the seeds are samples of, and when there is no interval."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import pytest

from fastserve.metrics.intervals import ENOUGH, enough, paired_ratio, resampled, t_95

BASE, OTHER = [2.0, 2.2, 1.9, 2.1, 2.4], [1.0, 1.3, 0.8, 1.1, 1.2]


@pytest.mark.parametrize(
    ("freedom", "t"), [(3, 3.182), (4, 2.776), (5, 2.571), (7, 2.365), (9, 2.262), (15, 2.131), (30, 2.042)]
)
def test_students_t(freedom: int, t: float) -> None:
    """Of any table."""
    assert t_95(freedom) == pytest.approx(t, rel=2e-3)


def test_by_hand() -> None:
    """10.6 over 5.4: residuals base - 1.963 other of 0.0370, -0.3519, 0.3296, -0.0593, 0.0444; their stdev 0.2444.

    The second varies more, so the ratio may be smaller by more: skewed = (2 * 2.776^2 + 1) / 6 / sqrt(5) = 1.223.
    """
    error = 0.2444 / 2.12 / sqrt(5)
    expected = (10.6 / 5.4, 10.6 / 5.4 / exp((2.776 + 1.223) * error), 10.6 / 5.4 * exp(2.776 * error))
    assert paired_ratio(BASE, OTHER) == pytest.approx(expected, rel=1e-3)


def test_exchanging_the_two_turns_it_over() -> None:
    (mean, low, high), turned = paired_ratio(BASE, OTHER), paired_ratio(OTHER, BASE)
    assert low is not None and high is not None
    assert turned == pytest.approx((1 / mean, 1 / high, 1 / low), rel=0.01)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_no_interval_below_four(seeds: int) -> None:
    assert paired_ratio(BASE[:seeds], OTHER[:seeds])[1:] == (None, None)
    assert paired_ratio(BASE[:seeds], OTHER[:seeds], samples=1)[1:] == (None, None)
    assert not enough(seeds, None)


@pytest.mark.parametrize(("samples", "there"), [(None, True), (0, False), (1, True), (2, False), (3, False), (4, True)])
def test_no_interval_of_too_few_samples(samples: int | None, there: bool) -> None:
    assert (paired_ratio(BASE, OTHER, samples=samples).low is not None) is there is enough(5, samples)


def test_resamples_of_one_sample_do_not_narrow_it() -> None:
    """Twice as many of the same values: an interval of draws narrows by about 1.4, one of resamples hardly."""
    few, many = paired_ratio(BASE, OTHER), paired_ratio(BASE * 4, OTHER * 4)
    assert log(few[2] / few[0]) / log(many[2] / many[0]) > 2  # type: ignore[operator]
    few, many = paired_ratio(BASE, OTHER, samples=1), paired_ratio(BASE * 4, OTHER * 4, samples=1)
    assert 1 < log(few[2] / few[0]) / log(many[2] / many[0]) < 1.5  # type: ignore[operator]
    assert log(few[2] / few[0]) == pytest.approx(sqrt(5) * log(paired_ratio(BASE, OTHER)[2] / few[0]))  # type: ignore[operator]


def test_overlapping_windows_count_as_what_fits_side_by_side() -> None:
    alone, crowded = paired_ratio(BASE, OTHER, samples=5), paired_ratio(BASE, OTHER, samples=4)
    assert crowded[2] - crowded[0] > alone[2] - alone[0]  # type: ignore[operator]
    assert paired_ratio(BASE, OTHER, samples=9) == alone


@pytest.mark.parametrize("seeds", [ENOUGH, 5, 8, 16])
@pytest.mark.parametrize("skewness", [0, 1, 2])
def test_it_covers_what_it_should(seeds: int, skewness: float) -> None:
    """Pairs whose first varies more, normal or with a long tail: 91 to 98.5 % of 4,000 intervals hold the ratio."""
    rng = np.random.default_rng(7)
    common = rng.lognormal(0, 0.1, (4000, seeds))
    shape = 4 / skewness**2 if skewness else 1.0
    own = (rng.gamma(shape, 1, common.shape) - shape) / sqrt(shape) if skewness else rng.normal(0, 1, common.shape)
    base, other = 2 * common * (1 + 0.2 * own), common * rng.lognormal(0, 0.02, common.shape)
    truth = 2 / exp(0.02**2 / 2)
    found = [paired_ratio(a, b) for a, b in zip(base.tolist(), other.tolist(), strict=True)]
    share = np.mean([low <= truth <= high for _, low, high in found if low is not None and high is not None])
    assert 0.91 < share < 0.985


def test_the_line_says_why_there_is_none() -> None:
    assert resampled(1, "each ...", None) == "one seed, so no interval: 4 seeds or more give one"
    assert resampled(3, "each ...", None) == "no interval below 4 seeds; each ..."
    assert resampled(8, "each ...", 3) == "no interval: it takes 4 independent samples or more; each ..."
    assert resampled(8, "each ...", 1) == "95 % intervals over 8 seeds; each ..."
