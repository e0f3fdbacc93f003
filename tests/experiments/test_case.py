"""Cases and rows: rates from loads, common random numbers, status, paired ratios."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments._lib.case import Case, Row, Workload, point, points, rate_gain, ratio, search, simulate, status
from sim.capacity import Normalised
from sim.run import Contender
from sim.settings import Settings

SETTINGS = Settings(max_batch=4)


def row(policy: str, seed: int, **numbers: Any) -> Row:
    return Row({"policy": policy}, seed, numbers)


def test_a_load_is_in_units_of_the_sustained_rate() -> None:
    workload = Workload(requests=30)
    case = Case(at={}, workload=workload, settings=SETTINGS.with_(load=0.5))
    assert case.rate == pytest.approx(0.5 * workload.sustained_rate(SETTINGS))


def test_a_case_without_rate_or_load_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a rate nor a load"):
        _ = Case(at={}, workload=Workload(requests=30), settings=SETTINGS).rate


def test_policies_see_the_same_requests() -> None:
    workload = Workload(requests=30, arrivals="gamma:cv=3")
    assert workload.trace(1.0, 4).digest() == workload.trace(1.0, 4).digest()
    slow, fast = workload.trace(1.0, 4), workload.trace(2.0, 4)
    assert (slow.prompt == fast.prompt).all()
    assert np.allclose(slow.arrival, 2 * fast.arrival, atol=2000)


@pytest.mark.parametrize("split", [0.25, 4.0])
def test_a_length_ratio_keeps_the_mean_total_and_the_independence(split: float) -> None:
    plain = Workload(requests=4000).trace(1.0, 1)
    scaled = Workload(requests=4000, ratio=split).trace(1.0, 1)
    assert scaled.prompt.mean() / scaled.output.mean() == pytest.approx(split, rel=0.1)
    total = (plain.prompt + plain.output).mean()
    assert (scaled.prompt + scaled.output).mean() == pytest.approx(total, rel=0.1)
    before = np.corrcoef(plain.prompt, plain.output)[0, 1]
    assert np.corrcoef(scaled.prompt, scaled.output)[0, 1] == pytest.approx(before, abs=0.02)


def test_a_warm_up_is_left_out() -> None:
    case = Case(at={}, workload=Workload(requests=60), settings=SETTINGS.with_(load=0.9))
    cut = Case(at={}, workload=case.workload, settings=case.settings, warmup=0.5)
    assert simulate(case)["mean_jct_s"] != simulate(cut)["mean_jct_s"]
    assert simulate(cut)["completed"] < simulate(case)["completed"] == 60


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ({"collapsed": False, "saturated": False, "load": 0.9}, "ok"),
        ({"collapsed": True, "saturated": False, "load": 0.9}, "collapsed"),
        ({"collapsed": True, "saturated": True, "load": 1.2}, "saturated"),
        ({"collapsed": False, "saturated": True, "load": 0.9}, "saturated"),
    ],
)
def test_status(numbers: dict[str, Any], word: str) -> None:
    assert status(numbers) == word


def test_points_gather_seeds() -> None:
    rows = [row("a", 1, x=3.0), row("b", 0, x=None), row("a", 0, x=1.0)]
    found = points(rows)
    assert [len(p.rows) for p in found] == [2, 1]
    assert found[0].values("x") == [1.0, 3.0]
    assert found[0].mean("x") == 2.0
    assert np.isnan(found[1].mean("x"))
    with pytest.raises(KeyError, match="0 points"):
        point(rows, policy="c")


def test_a_ratio_is_paired_by_seed_and_needs_both() -> None:
    rows = [row("a", 0, x=2.0), row("a", 1, x=8.0), row("b", 1, x=4.0), row("b", 2, x=100.0)]
    found = ratio(point(rows, policy="a"), point(rows, policy="b"), "x")
    assert found is not None
    assert found.mean == 2.0


def test_a_rate_gain_is_over_the_seeds_of_both() -> None:
    rows = [row("a", 0, x_rate=4.0), row("a", 1, x_rate=None), row("b", 0, x_rate=2.0), row("b", 1, x_rate=2.0)]
    found = rate_gain(points(rows, policy="a"), points(rows, policy="b"), "x")
    assert found is not None
    assert found.mean == 2.0


def test_a_search_brackets_the_objective() -> None:
    workload = Workload(requests=60)
    case = Case(
        at={},
        workload=workload,
        settings=SETTINGS.with_(load=1.0),
        policy=Contender("fcfs"),
        options={"highest": 8.0, "tolerance": 0.05},
    )
    found = search(case, {"jct": lambda run: run.summary["mean_jct_s"]}, 20.0)
    rate = found["jct_rate"]
    assert not found["jct_censored"]

    def jct(at: float) -> float:
        return float(simulate(Case(at={}, workload=workload, settings=SETTINGS.with_(rate=at)))["mean_jct_s"])

    assert jct(rate) <= 20.0 < jct(rate * 1.05)


def test_a_search_that_never_crosses_is_censored() -> None:
    case = Case(
        at={},
        workload=Workload(requests=20),
        settings=SETTINGS.with_(load=1.0),
        options={"highest": 2.0, "tolerance": 0.1},
    )
    found = search(case, {"jct": lambda run: run.summary["mean_jct_s"]}, 1e9)
    assert found["jct_censored"]
    assert found["jct_rate"] == pytest.approx(2.0 * found["sustained_rps"])


@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_runs_that_are_cut_short_change_no_rate(warmup: float) -> None:
    case = Case(
        at={},
        workload=Workload(requests=50),
        settings=SETTINGS.with_(load=1.0, visit=0, batching="mixed"),
        policy=Contender("sj-mlfq"),
        warmup=warmup,
        options={"highest": 6.0, "tolerance": 0.3},
    )
    names = ("mean_s_per_token", "p95_s_per_token")
    measures = {name: lambda run, name=name: run.summary[name] for name in names}
    whole = search(case, measures, 0.1)
    aim = Normalised([np.mean, lambda values: float(np.percentile(values, 95))], 0.1)
    short = search(case, measures, 0.1, lambda trace: aim)
    assert whole.pop("cut_short") == 0
    assert short.pop("cut_short") > 0
    assert short == whole
