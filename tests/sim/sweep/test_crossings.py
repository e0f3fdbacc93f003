"""Where one policy stops winning, of curves that are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sim.sweep.crossings import crossings
from sim.sweep.points import Failed, Row, interval, points
from sim.sweep.result import Sweep


def rows(label: str, curve: Callable[[float, int], float], seeds: int = 5, **more: Any) -> list[Row]:
    return [
        Row(
            label, label, "", {"load": x / 10}, seed, {"mean_jct_s": curve(x / 10, seed), "goodput_rps": 1.0} | more, {}
        )
        for x in range(5, 12)
        for seed in range(seeds)
    ]


def swept(found: list[Row], failed: list[Failed] | None = None) -> Sweep:
    labels = {row.label: row.policy for row in found}
    loads = sorted({row.at["load"] for row in found})
    return Sweep(
        {"load": loads}, {"trace": "known", "samples": None}, labels, len(found), rows=found, failed=failed or []
    )


def test_two_lines_cross_where_they_do() -> None:
    """10 and 10 * 2^(x - 0.75): level at 0.75, whatever the steps of the grid."""
    both = rows("fcfs", lambda x, s: 10.0 + s) + rows("mine", lambda x, s: (10.0 + s) * 2 ** (x - 0.75))
    [one] = swept(both).crossed("mean_jct_s")
    assert one.place == pytest.approx(0.75)
    assert (one.below, one.above, one.seeds, one.of) == ("mine", "fcfs", 5, 5)
    assert one.low == pytest.approx(0.75)
    assert one.high == pytest.approx(0.75)
    frame = swept(both).crossings()
    assert frame[["base", "label", "axis", "below", "above"]].iloc[0].tolist() == [
        "fcfs",
        "mine",
        "load",
        "mine",
        "fcfs",
    ]
    assert str(one).startswith("mine is ahead of fcfs up to load 0.75 [0.75, 0.75], then behind")


def test_its_interval_is_over_the_seeds() -> None:
    """Seeds cross at 0.65 to 0.85: the interval holds the middle, and is that of these five places."""
    both = rows("fcfs", lambda x, s: 10.0) + rows("mine", lambda x, s: 10.0 * 2 ** (x - 0.65 - s / 20))
    [one] = swept(both).crossed("mean_jct_s")
    spread = interval([0.65, 0.7, 0.75, 0.8, 0.85], None)
    assert (one.low, one.high) == (pytest.approx(spread.low), pytest.approx(spread.high))
    few = [row for row in both if row.seed < 3]
    assert swept(few).crossed("mean_jct_s")[0].low is None


def test_more_is_better_of_a_goodput() -> None:
    """It is ahead where it has more."""
    both = [
        row._replace(numbers={"goodput_rps": value})
        for row in rows("fcfs", lambda x, s: 1.0) + rows("mine", lambda x, s: 1.0)
        for value in [1.0 if row.label == "fcfs" else 2 ** (row.at["load"] - 0.75)]
    ]
    [one] = swept(both).crossed("goodput_rps")
    assert (one.below, one.above) == ("fcfs", "mine")


def test_what_only_touches_does_not_cross() -> None:
    level = rows("fcfs", lambda x, s: 10.0) + rows("mine", lambda x, s: 10.0 + 1e-4 * (-1) ** round(10 * x))
    assert swept(level).crossed("mean_jct_s") == []
    touching = rows("fcfs", lambda x, s: 10.0) + rows("mine", lambda x, s: 10.0 + abs(x - 0.7))
    assert swept(touching).crossed("mean_jct_s") == []


def test_a_seed_that_does_not_cross_takes_the_interval_away() -> None:
    both = rows("fcfs", lambda x, s: 10.0)
    both += rows("mine", lambda x, s: 10.5 if s == 0 else 9.0 + 8 * (x - 0.5) ** 2)
    [one] = swept(both).crossed("mean_jct_s")
    assert (one.seeds, one.of, one.low) == (4, 5, None)
    assert "in 4 of 5 seeds" in str(one)


def test_what_did_other_work_is_not_compared() -> None:
    """A collapsed run is a bound; one that truncated jobs had less to do."""
    base, other = rows("fcfs", lambda x, s: 10.0), rows("mine", lambda x, s: 10.0 * 2 ** (x - 0.75))
    stopped = [row._replace(numbers=row.numbers | {"collapsed": row.at["load"] > 0.7}) for row in other]
    assert swept(base + stopped).crossed("mean_jct_s") == []
    assert {*swept(base + stopped).points().query("label == 'mine' and load > 0.7")["status"]} == {"collapsed"}
    late = [row._replace(numbers=row.numbers | {"load": row.at["load"]}) for row in stopped]
    assert swept(base + late).crossed("mean_jct_s") == [], "at whatever load it was stopped"
    assert swept(base + late).ratios()["ratio"].notna().sum() == 3
    cut = [row._replace(numbers=row.numbers | {"truncated": 3 * (row.at["load"] > 0.7)}) for row in other]
    assert swept(base + cut).crossed("mean_jct_s") == []
    assert swept(base + cut).ratios()["ratio"].notna().sum() == 3
    assert "no crossings there" in swept([row._replace(numbers=row.numbers | {"n": 9}) for row in base + cut]).table()


def test_a_policy_without_the_axis_is_the_same_all_along_it() -> None:
    base = [Row("fcfs", "fcfs", "", {}, seed, {"mean_jct_s": 10.0}, {}) for seed in range(4)]
    other = [
        Row("mlfq", "mlfq", "", {"ratio": ratio}, seed, {"mean_jct_s": 6.0 + ratio}, {})
        for ratio in (2, 3, 5, 6)
        for seed in range(4)
    ]
    [one] = crossings(points(base + other, [], "mean_jct_s", None), "mean_jct_s", "ratio", "fcfs", None)
    assert one.place == pytest.approx(4.0, abs=0.1)


def test_points_say_the_worst_of_their_seeds() -> None:
    found = rows("fcfs", lambda x, s: 10.0, seeds=2)
    grown = [row._replace(numbers=row.numbers | {"saturated": row.seed == 1 and row.at["load"] > 1}) for row in found]
    frame = swept(grown, [Failed("fcfs", {"load": 0.7}, 9, "it broke")]).points()
    assert frame["status"].tolist() == ["ok"] * 6 + ["saturated"]
    only = swept(found, [Failed("mine", {"load": 0.7}, 0, "it broke")])
    only.policies["mine"] = "mine"
    assert only.points().query("label == 'mine'")["status"].tolist() == ["failed"]


def test_an_interval_of_figures_that_may_be_nothing() -> None:
    """Student's t; a share stays a share."""
    spread = interval([0.0, 1.0, 2.0, 3.0], None)
    assert spread.mean == 1.5
    assert spread.high is not None
    assert spread.high - 1.5 == pytest.approx(3.182 * 1.29099 / 2, rel=0.01)
    assert interval([0.9, 0.95, 1.0, 1.0], None, share=True).high == 1.0
    assert interval([0.0, 1.0], None).low is None
