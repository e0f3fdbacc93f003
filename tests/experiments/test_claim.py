"""Claims: verdicts, published numbers."""

from __future__ import annotations

import pytest

from experiments._lib.case import Point, Row
from experiments._lib.claim import Claim, Published, compared, curve, published, rated
from fastserve.metrics.summary import Ratio

TWO = Published(2.0, 2.4, "a paper")


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (Ratio(2.2, 2.1, 2.3), "yes"),
        (Ratio(1.9, 1.7, 2.05), "yes"),
        (Ratio(1.8, 1.75, 1.85), "close"),
        (Ratio(2.6, 2.5, 2.7), "close"),
        (Ratio(1.2, 1.1, 1.3), "no"),
        (Ratio(2.2, None, None), "yes"),
        (None, "open"),
    ],
)
def test_verdicts(ours: Ratio | None, verdict: str) -> None:
    assert Claim("Fig.", "text", ours, TWO).verdict == verdict


@pytest.mark.parametrize(
    ("side", "ours", "verdict"),
    [
        ("at least", Ratio(1.5, 1.4, 1.6), "open"),
        ("at least", Ratio(3.0, 2.9, 3.1), "no"),
        ("at most", Ratio(3.0, 2.9, 3.1), "open"),
        ("at most", Ratio(1.5, 1.4, 1.6), "no"),
    ],
)
def test_a_bound_agrees_with_nothing(side: str, ours: Ratio, verdict: str) -> None:
    claim = Claim("Fig.", "text", ours, TWO, side=side)
    assert claim.verdict == verdict
    assert claim.shown.startswith(side)


def searched(*censored: bool) -> Point:
    return Point({}, tuple(Row({}, n, {"x_rate": 2.0 + n, "x_censored": c}) for n, c in enumerate(censored)))


def test_a_ratio_of_searched_rates_says_what_it_is_worth() -> None:
    found, missed, mixed = searched(False, False), searched(True, True), searched(False, True)
    assert rated(found, found, "x").ours == Ratio(1.0, None, None)
    four = searched(False, False, False, False)
    assert rated(four, four, "x").ours == Ratio(1.0, 1.0, 1.0)
    assert rated(found, found, "x")[1:] == ("", "")
    assert rated(missed, found, "x").side == "at least"
    assert rated(found, mixed, "x").side == "at most"
    assert rated(missed, mixed, "x") == (None, "", "not reached in 2 and 1 of 2 seeds")


def test_a_stopped_run_has_no_mean_to_compare() -> None:
    whole = Point({}, (Row({}, 0, {"mean_jct_s": 4.0}), Row({}, 1, {"mean_jct_s": 6.0})))
    half = Point({}, (Row({}, 0, {"mean_jct_s": 2.0}), Row({}, 1, {"mean_jct_s": 1.0, "collapsed": True, "load": 0.8})))
    ratio, mark = compared(whole, whole, "mean_jct_s")
    assert ratio is not None
    assert ratio.mean == 1.0
    assert mark == ""
    assert compared(whole, half, "mean_jct_s") == (None, "1 of 4 runs were stopped")


def test_what_nobody_published_is_ours() -> None:
    claim = Claim("Fig.", "text", None, note="3 of 5")
    assert claim.verdict == "ours"
    assert claim.shown == "3 of 5"


def test_published_numbers_are_read_with_their_source() -> None:
    found = published("Fig. 14", "cap 64 ratio")
    assert (found.low, found.high) == (1.294, 1.294)
    assert found.source
    with pytest.raises(KeyError):
        published("Fig. 14", "cap 65 ratio")


def test_published_curves_cross_where_published_ratios_say() -> None:
    """The crossing of 0.3 s/token by linear interpolation: two files that must agree."""
    rates = {}
    for system in ("fcfs", "sj-mlfq"):
        found = curve("Fig. 11", "ShareGPT OPT-13B", system)
        for (r0, v0), (r1, v1) in zip(list(zip(*found, strict=True)), list(zip(*found, strict=True))[1:], strict=False):
            if v0 <= 0.3 < v1:
                rates[system] = r0 + (r1 - r0) * (0.3 - v0) / (v1 - v0)
                break
    assert rates["fcfs"] == pytest.approx(published("Fig. 11", "ShareGPT OPT-13B fcfs rate").low, abs=2e-3)
    assert rates["sj-mlfq"] / rates["fcfs"] == pytest.approx(
        published("Fig. 11", "ShareGPT OPT-13B ratio").low, abs=2e-3
    )
    with pytest.raises(KeyError, match="no Fig"):
        curve("Fig. 99", "x", "y")
