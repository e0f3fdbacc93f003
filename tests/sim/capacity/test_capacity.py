"""The largest load that meets an objective: found, bounded, told, resumed, and what cannot be asked."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sim
from fastserve import Policy
from fastserve.metrics.slo import Slo
from fastserve.workload import Trace, synthesise
from sim.__main__ import main
from sim.capacity.found import Findings, Found, Point
from sim.capacity.search import Search
from sim.capacity.table import table
from sim.capacity.work import Work

SLO = "ttft=2s,e2e=40s,attain=0.9"
SYNTH = "n=60,rate=1,lengths=profile:sharegpt"
FEW: dict[str, Any] = {"seeds": 2, "tolerance": 0.2, "max_batch": 4, "jobs": 1}


@pytest.fixture(scope="module")
def found() -> sim.Capacity:
    return sim.capacity(synth=SYNTH, policy=["fcfs", "sj-mlfq"], slo=SLO, **FEW)


def test_a_load_meets_it_and_the_next_does_not(found: sim.Capacity) -> None:
    """As replay(load=...) says."""
    for one in found.found:
        assert one.bound == "" and one.load is not None and one.at is not None

        def attained(load: float, one: Found = one) -> float:
            settings = {"max_batch": 4, "slo": SLO, "load": load}
            run = sim.replay(synth=SYNTH, policy=one.label, seeds=[one.seed], processes=1, **settings).runs[0]
            assert run.summary["slo_attainment"] is not None
            return run.summary["slo_attainment"]

        failed = min(point.load for point in one.tried if point.load > one.load)
        assert one.load < failed <= one.load * 1.2
        assert attained(one.load) == one.at.slo_attainment >= 0.9 > attained(failed)


def test_a_name_is_not_broken_at_its_hyphens(found: sim.Capacity, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "-".join(["azure"] * 10)
    monkeypatch.setitem(found.found[0].about, "trace", name)
    assert name in found.table()


def test_runs_that_are_cut_short_change_nothing(found: sim.Capacity) -> None:
    whole = sim.capacity(synth=SYNTH, policy=["fcfs", "sj-mlfq"], slo=SLO, cut_short=False, **FEW)
    assert sum(point.cut_short for one in found.found for point in one.tried) > 0
    assert not any(point.cut_short for one in whole.found for point in one.tried)
    for one, other in zip(found.found, whole.found, strict=True):
        assert (one.label, one.seed, one.load, one.bound) == (other.label, other.seed, other.load, other.bound)
        for short, long in zip(one.tried, other.tried, strict=True):
            assert short.load == long.load
            assert long.slo_attainment is not None
            assert short.slo_attainment == long.slo_attainment or (short.cut_short and long.slo_attainment < 0.9)


def test_means_ratios_and_rates(found: sim.Capacity) -> None:
    loads = {label: [one.load or 0.0 for one in found.of(label)] for label in found.labels}
    rows = found.by_policy().set_index("label")
    for label in found.labels:
        assert rows.loc[label, "load"] == pytest.approx(np.mean(loads[label]))
        assert rows.loc[label, "rate_rps"] == pytest.approx(np.mean(loads[label]) * found.sustained_rps)
    assert rows.loc["sj-mlfq", "ratio"] == pytest.approx(np.mean(loads["sj-mlfq"]) / np.mean(loads["fcfs"]))
    assert found.summaries()["load"].tolist() == [*loads["fcfs"], *loads["sj-mlfq"]]
    assert len(found.runs()) == sum(len(one.tried) for one in found.found)
    assert "2 s, all within 40 s" in repr(found) and "90 % of the requests" in found._repr_html_()


def test_in_processes_it_is_the_same(found: sim.Capacity) -> None:
    again = sim.capacity(synth=SYNTH, policy=["fcfs", "sj-mlfq"], slo=SLO, **(FEW | {"jobs": 2}))
    assert again.document() == found.document()


class Mine(Policy):
    def rank(self, job: Any) -> Any:
        return -job.arrival


def test_policies_of_ones_own_and_settings_with_objectives() -> None:
    class Here(Mine):
        """Cannot be pickled."""

    result = sim.capacity(synth=SYNTH, policy=[Mine, Here], settings=sim.Settings(max_batch=4, slo=SLO), seeds=[1],
                          tolerance=0.5)  # fmt: skip
    assert [one.load for one in result.of("Mine")] == [one.load for one in result.of("Here")] != [None]


def test_a_trace_with_objectives_of_its_own_needs_none() -> None:
    trace = synthesise(40, rate=1.0, lengths="profile:sharegpt", seed=0)
    with pytest.raises(ValueError, match="bring none of their own; give some as slo ttft=1s"):
        sim.capacity(trace, "fcfs", slo="attain=0.9", **FEW)
    own = replace(trace, ttft_slo=np.full(40, 2 * 10**9))
    theirs = sim.capacity(own, "fcfs", slo="attain=0.9", **FEW)
    given = sim.capacity(trace, "fcfs", slo="ttft=2s,attain=0.9", **FEW)
    assert [one.load for one in theirs.found] == [one.load for one in given.found]


def test_ends_of_the_search_are_bounds_without_interval() -> None:
    easy = sim.capacity(synth=SYNTH, policy="fcfs", slo="e2e=1000s", highest=0.5, **(FEW | {"seeds": 4}))
    assert easy.load("fcfs") == (0.5, None, None, "at least")
    assert ">= 0.50" in easy.table() and "meet it at the highest load that was tried, 0.5" in easy.table()
    hard = sim.capacity(synth=SYNTH, policy="fcfs", slo="e2e=10ms", lowest=0.3, **(FEW | {"seeds": 4}))
    assert [one.load for one in hard.found] == [None] * 4
    assert hard.load("fcfs") == (pytest.approx(0.3), None, None, "at most")
    assert "fail at the lowest load that was tried, 0.3" in " ".join(hard.table().split())


def test_what_no_load_can_meet_is_told_as_that() -> None:
    """A third of the requests is late on an empty machine."""
    trace = synthesise(30, rate=0.01, lengths="profile:sharegpt", seed=0)
    alone = sim.replay(trace, "fcfs", processes=1).runs[0].records["jct_from_arrival"]
    limit = float(np.quantile(alone, 2 / 3))
    hard = sim.capacity(trace, "fcfs", slo=f"e2e={limit}s", **FEW)
    assert hard.met_alone == pytest.approx(2 / 3, abs=0.04)
    assert "one at a time, 66.7% of the requests meet it: no load can" in " ".join(hard.table().split())
    easy = sim.capacity(trace, "fcfs", slo=f"e2e={limit}s,attain=0.6", **FEW)
    assert easy.met_alone is None and "no load can" not in easy.table()


def findings(*loads: tuple[str, float | None, str], **more: Any) -> Findings:
    """label, load, bound of each search, seeds counted up."""
    labels = list(dict.fromkeys(label for label, _, _ in loads))
    counts = dict.fromkeys(labels, 0)
    made = []
    for label, load, bound in loads:
        point = Point(label, counts[label], load or 0.1, 1.0, 0.96, 1.0, False, False)
        made.append(Found(label, label, counts[label], load, bound, [point], {}, {}))
        counts[label] += 1
    return Findings("ttft=1s,attain=0.95", 0.95, 2.0, labels, [0, 1], 0.1, 4.0, 0.02, 100, found=made, **more)


def test_a_ratio_is_a_bound_where_one_side_is_and_nothing_where_both_are() -> None:
    one = findings(("a", 1.0, ""), ("a", 2.0, ""), ("b", 4.0, "at least"), ("b", 2.0, ""), ("c", None, "below"),
                   ("c", 0.5, ""), ("d", 4.0, "at least"), ("d", None, "below"))  # fmt: skip
    assert one.ratio("b")[::3] == (2.0, "at least")
    assert one.ratio("a", "b")[::3] == (0.5, "at most")
    assert one.ratio("c")[::3] == (pytest.approx(0.2), "at most")
    assert one.ratio("a", "c")[::3] == (pytest.approx(5.0), "at least")
    assert one.ratio("b", "c")[::3] == (pytest.approx(10.0), "at least")
    assert one.ratio("b", "b").mean is None
    assert one.load("d").mean is None and one.ratio("d").mean is None


def test_an_interval_is_that_of_the_seeds() -> None:
    four = findings(*[("a", load, "") for load in (1.0, 1.2, 0.9, 1.1)])
    mean, low, high, side = four.load("a")
    assert mean == pytest.approx(1.05) and side == ""
    assert low is not None and high is not None and 0.7 < low < 0.95 < 1.15 < high < 1.5
    assert findings(("a", 1.0, ""), ("a", 1.2, "")).load("a").low is None
    assert replace(four, samples=0).load("a").low is None


def test_what_is_met_again_above_a_load_that_fails_is_told() -> None:
    again = findings(("a", 1.0, ""))
    again.points = [Point("a", 0, 1.5, 3.0, 0.5, 1.0, False, False), Point("a", 0, 2.0, 4.0, 0.97, 1.0, False, False)]
    assert again.rises_again() == {"a": (2.0, 0)}
    again.found[0] = again.found[0]._replace(about={"trace": "t"})
    assert "met again above a load that fails: a at 2.00 (seed 0)" in " ".join(table(again).split())


def test_the_first_crossing_is_the_largest_load() -> None:
    """Attainment that rises again in overload."""

    def run(rate: float, observe: Any) -> Any:
        return SimpleNamespace(settings={}, summary={"collapsed": False, "missed": 0.5 if 1 < rate < 2 else 0.0})

    search = Search(run, {"missed": lambda run: run.summary["missed"]})
    rate, censored = search.largest("missed", 0.05, 0.1, 4.0, steps=8, tolerance=0.01)
    assert not censored and rate == pytest.approx(1.0, rel=0.01)


def test_a_folder_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"synth": SYNTH, "slo": SLO, "out": tmp_path / "out", **FEW}
    first = sim.capacity(policy="fcfs", **asked)
    assert json.loads((tmp_path / "out/summary.json").read_text())["format"] == "capacity/1"
    made: list[str] = []
    usual = Work.search
    monkeypatch.setattr(Work, "search", lambda self, case: made.append(case.label) or usual(self, case))
    assert sim.capacity(policy="fcfs", **asked).document() == first.document()
    assert made == []
    sim.capacity(policy=["fcfs", "las"], **asked)
    assert made == ["las"] * 2
    sim.capacity(policy="fcfs", **(asked | {"slo": "ttft=2s,e2e=40s,attain=0.91"}))
    assert made == ["las"] * 2 + ["fcfs"] * 2


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    sim.replay(synth=SYNTH, policy="fcfs").save(tmp_path)
    before = (tmp_path / "summary.json").read_text()
    with pytest.raises(ValueError, match="something else"):
        sim.capacity(synth=SYNTH, policy="fcfs", slo=SLO, out=tmp_path, **FEW)
    assert (tmp_path / "summary.json").read_text() == before


def sessions() -> Trace:
    trace = synthesise(6, rate=1.0, lengths="profile:sharegpt", seed=0)
    return replace(trace, program=list("aabbcc"), after=[(), (0,), (), (2,), (), (4,)], think=np.zeros(6, np.int64))


@pytest.mark.parametrize(
    ("trace", "given", "said"),
    [
        (sessions, {}, "come when others have been answered, so there is no load to look for"),
        (None, {"sessions": 4}, "sessions says when programs come, so there is no load to look for"),
        (None, {"program_rate": 1.0}, "program_rate says when programs come"),
        (None, {"load": 0.5}, "load=0.5: the load is what is looked for; leave load out"),
        (None, {"rate": 2.0}, "rate=2: the load is what is looked for; leave rate out"),
        (None, {"lowest": 2.0, "highest": 1.0}, "0 < lowest < highest"),
        (None, {"tolerance": 0.0}, "0.02 is 2 %"),
        (None, {"slo": None}, "give some as slo ttft=1s"),
        (None, {"slo": "ttft=1s,attain=95"}, "did you mean 95%?"),
        (None, {"settings": sim.Settings(slo="ttft=1s")}, "give one of the two"),
        (None, {"policy": "nope"}, "nope"),
        (None, {"seeds": 0}, "give at least one"),
    ],
)
def test_what_cannot_be_asked_says_why(trace: Any, given: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"slo": SLO, "policy": "fcfs", "jobs": 1} | given
    where = {"synth": SYNTH} if trace is None else {"trace": trace()}
    with pytest.raises(ValueError, match=re.escape(said)):
        sim.capacity(**where, **asked)


def test_recorded_arrivals_of_sessions_have_a_load() -> None:
    found = sim.capacity(sessions(), "fcfs", slo="ttft=2s,e2e=40s", open_loop=True, **FEW)
    whole = sim.capacity(sessions(), "fcfs", slo="ttft=2s,e2e=40s", open_loop=True, cut_short=False, **FEW)
    assert [one.load for one in found.found] == [one.load for one in whole.found]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["capacity", "--synth", SYNTH, "--policy", "fcfs", "--policy", "sj-mlfq", "--slo", SLO, "--seeds", "2",
             "--tolerance", "0.3", "--batch-size", "4", "--jobs", "1", "--highest", "3"]  # fmt: skip
    assert main([*flags, "--out", str(tmp_path / "o"), "--plot"]) == 0
    out = capsys.readouterr().out
    assert "90 % of the requests meet: first token within 2 s, all within 40 s" in out
    assert max(map(len, out.splitlines())) <= 100
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {"run.json", "cases", "searches.csv", "runs.csv", "summary.json", "capacity.pdf", "capacity.png"}
    assert main([*flags, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in document["policies"]] == ["fcfs", "sj-mlfq"]
    assert len(document["searches"]) == 4 and document["settings"]["slo"] == "ttft=2s,e2e=40s,attain=0.9"
    assert main([*flags[:-2], "--sessions", "3"]) == 2
    assert "there is no load to look for" in capsys.readouterr().err


def test_without_objectives_the_command_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", "--synth", SYNTH]) == 2
    assert "no objective" in capsys.readouterr().err


def test_a_figure_without_a_folder_is_one_that_a_notebook_shows(found: sim.Capacity) -> None:
    figure: Any = found.plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len({point.load for point in found.points}) == 9
    assert Slo.parse(found.slo).attain == 0.9
