"""sweep(): the runs are replay()'s, a seed has the same requests everywhere, and nothing is computed twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from fastserve import Job, Policy
from fastserve.atomic_files import OutputError
from fastserve.policies.spec import PolicySpec
from sim.__main__ import main
from sim.replay import RunError
from sim.sweep import names as naming
from sim.sweep import work as working

SYNTH = "n=40,rate=2"
SMALL: dict[str, Any] = {"synth": SYNTH, "seeds": 4, "max_batch": 4}


class Backwards(Policy):
    """Breaks where the batch is large."""

    def rank(self, job: Job) -> int:
        if self.machine.slots > 4:
            raise RuntimeError("I cannot count so far")
        return -job.arrival


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Policy and seed of each run that is really made."""
    calls: list[tuple[str, int]] = []
    real = working.run_one

    def counted(trace: Any, spec: PolicySpec, settings: Any, seed: int, **more: Any) -> Any:
        calls.append((spec.name, seed))
        return real(trace, spec, settings, seed, **more)

    monkeypatch.setattr(working, "run_one", counted)
    return calls


def test_each_run_is_that_of_a_replay() -> None:
    found = sim.sweep(policy=["fcfs", "srpt"], load=[0.5, 0.9], slo="ttft=1s", **SMALL)
    assert found.runs_planned == len(found.rows) == 16
    for load in (0.5, 0.9):
        one = sim.replay(policy=["fcfs", "srpt"], load=load, slo="ttft=1s", **SMALL)
        mine = [row for row in found.rows if row.at == {"load": load}]
        for run in one.runs:
            numbers = next(row.numbers for row in mine if (row.label, row.seed) == (run.label, run.seed))
            assert {name: numbers[name] for name in run.summary} == dict(run.summary)
            assert numbers["rate"] == one.settings["rate"]
        assert len(mine) == len(one.runs)


def test_a_seed_has_the_same_requests_at_every_point() -> None:
    """Common random numbers: only the gaps are stretched."""
    found = sim.sweep(policy="fcfs", rate=[1.0, 2.0], keep_records=True, synth="n=50,rate=1", seeds=2)
    records = found.records().sort_values("id")
    for seed in (0, 1):
        mine = records[records["seed"] == seed]
        slow, fast = mine[mine["rate"] == 1.0], mine[mine["rate"] == 2.0]
        assert slow["prompt_tokens"].tolist() == fast["prompt_tokens"].tolist()
        assert slow["output_tokens"].tolist() == fast["output_tokens"].tolist()
        assert np.allclose(slow["arrival"], 2 * fast["arrival"].to_numpy(), atol=1e-6)


def test_the_frame_is_tidy() -> None:
    found = sim.sweep(policy=["fcfs", PolicySpec("mlfq", {"ratio": [2, 4]})], load="0.5,0.9", **SMALL)
    frame = found.summaries()
    assert list(frame.columns[:5]) == ["policy", "label", "load", "ratio", "seed"]
    assert len(frame) == 2 * 4 * 3
    assert frame.query("label == 'fcfs'")["ratio"].isna().all()
    points = found.points("p99_jct_s")
    assert list(points.columns) == ["label", "load", "ratio", "mean", "low", "high", "seeds", "status"]
    one = frame.query("label == 'mlfq' and load == 0.9 and ratio == 4")
    mean = points.query("label == 'mlfq' and load == 0.9 and ratio == 4").iloc[0]
    assert mean["mean"] == pytest.approx(one["p99_jct_s"].mean())
    assert mean["low"] < mean["mean"] < mean["high"]
    assert mean["seeds"] == 4
    ratios = found.ratios()
    assert set(ratios["label"]) == {"mlfq"}
    assert len(ratios) == 4


def test_below_four_seeds_there_is_no_interval() -> None:
    points = sim.sweep(policy="fcfs", load="0.5,0.9", **SMALL | {"seeds": 3}).points()
    assert points["low"].isna().all()
    assert points["mean"].notna().all()


def test_a_second_sweep_computes_what_is_new(tmp_path: Path, ran: list[tuple[str, int]]) -> None:
    first = sim.sweep(policy=["fcfs", "srpt"], load="0.5,0.9", out=tmp_path, **SMALL)
    assert len(ran) == first.computed == 16
    again = sim.sweep(policy=["fcfs", "srpt"], load="0.5,0.9", out=tmp_path, **SMALL)
    assert (len(ran), again.computed) == (16, 0)
    assert again.summaries().equals(first.summaries())
    wider = sim.sweep(policy=["fcfs", "srpt", "las"], load="0.5:0.9:0.2", out=tmp_path, **SMALL)
    assert wider.computed == 3 * 3 * 4 - 16
    assert sim.Sweep.read(tmp_path).summaries().equals(wider.summaries())


def test_a_changed_source_recomputes(
    tmp_path: Path, ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "mine.py"
    module.write_text(
        "from fastserve import Policy\n\n\nclass Mine(Policy):\n    def rank(self, job):\n        return job.arrival\n"
    )
    policies = ["fcfs", f"{module}:Mine"]
    sim.sweep(policy=policies, load="0.5,0.9", out=tmp_path / "out", **SMALL)
    ran.clear()
    module.write_text(module.read_text().replace("job.arrival", "-job.arrival"))
    sim.sweep(policy=policies, load="0.5,0.9", out=tmp_path / "out", **SMALL)
    assert len(ran) == 8  # the user's own alone
    monkeypatch.setattr(naming, "fingerprint", lambda: "another")
    ran.clear()
    sim.sweep(policy=policies, load="0.5,0.9", out=tmp_path / "out", **SMALL)
    assert len(ran) == 16


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    tmp_path: Path, ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = working.run_one

    def stops(*given: Any, **more: Any) -> Any:
        if len(ran) == 5:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(working, "run_one", stops)
    part = sim.sweep(policy=["fcfs", "srpt"], load="0.5,0.9", out=tmp_path, **SMALL)
    assert part.interrupted
    assert len(part.rows) == 5
    assert not (tmp_path / "summary.json").exists()
    read = sim.Sweep.read(tmp_path)
    assert read.interrupted
    assert read.summaries().equals(part.summaries())
    monkeypatch.setattr(working, "run_one", real)
    whole = sim.sweep(policy=["fcfs", "srpt"], load="0.5,0.9", out=tmp_path, **SMALL)
    assert whole.computed == 16 - 5
    assert not sim.Sweep.read(tmp_path).interrupted


def test_a_damaged_case_is_computed_again(tmp_path: Path, ran: list[tuple[str, int]]) -> None:
    first = sim.sweep(policy="fcfs", load="0.5,0.9", out=tmp_path, **SMALL)
    case = next((tmp_path / "cases").iterdir())
    case.write_text('{"numbers": ')
    ran.clear()
    assert sim.sweep(policy="fcfs", load="0.5,0.9", out=tmp_path, **SMALL).summaries().equals(first.summaries())
    assert len(ran) == 1


def test_a_policy_that_breaks_at_a_point_leaves_the_others() -> None:
    found = sim.sweep(policy=["fcfs", Backwards], max_batch="4,8", synth=SYNTH, seeds=2, load=0.9)
    assert len(found.rows) == 6
    assert {(one.label, one.at["max_batch"]) for one in found.failed} == {("Backwards", 8)}
    assert "I cannot count so far" in found.failed[0].why
    assert "test_sweep.py, line" in found.failed[0].why
    points = found.points()
    assert points.query("label == 'Backwards'")["status"].tolist() == ["ok", "failed"]
    assert "failed: Backwards at max_batch 8, seed 0:" in found.table()
    with pytest.raises(RunError, match=r"no run could be made\. Backwards at max_batch 8"):
        sim.sweep(policy=Backwards, max_batch=[8, 16], synth=SYNTH, seeds=1)


def test_what_failed_is_read_back_and_tried_again(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"policy": ["fcfs", Backwards], "max_batch": "4,8", "synth": SYNTH, "seeds": 1, "load": 0.9}
    sim.sweep(**asked, out=tmp_path)
    read = sim.Sweep.read(tmp_path)
    assert [one.label for one in read.failed] == ["Backwards"]
    assert not read.interrupted
    again = sim.sweep(**asked, out=tmp_path)
    assert (again.computed, len(again.failed)) == (1, 1)


def test_processes_give_the_same() -> None:
    here = sim.sweep(policy=["fcfs", "srpt"], load="0.5,0.9", jobs=1, **SMALL)
    there = sim.sweep(policy=["fcfs", "srpt"], load="0.5,0.9", jobs=2, **SMALL)
    assert here.summaries().equals(there.summaries())


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    sim.sweep(policy="fcfs", load="0.5,0.9", out=tmp_path / "a", **SMALL)
    with pytest.raises(ValueError, match=r"holds a sweep of other requests .*name another folder"):
        sim.sweep(policy="fcfs", load="0.5,0.9", out=tmp_path / "a", **SMALL | {"synth": "n=41,rate=2"})
    sim.replay(policy="fcfs", synth=SYNTH).save(tmp_path / "b")
    with pytest.raises(ValueError, match=r"holds the files of something else .*'run/1'"):
        sim.sweep(policy="fcfs", load="0.5,0.9", out=tmp_path / "b", **SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        sim.sweep(policy="fcfs", load="0.5,0.9", out=tmp_path / "file", **SMALL)
    with pytest.raises(ValueError, match="holds no sweep"):
        sim.Sweep.read(tmp_path / "nowhere")


def test_records_are_kept_where_asked(tmp_path: Path, ran: list[tuple[str, int]]) -> None:
    asked: dict[str, Any] = {"policy": "fcfs", "load": "0.5,0.9", "out": tmp_path, **SMALL}
    with pytest.raises(ValueError, match="keep_records=True"):
        sim.sweep(**asked).records()
    ran.clear()
    kept = sim.sweep(**asked, keep_records=True)
    assert len(ran) == 8  # they were not there
    assert len(kept.records()) == 2 * 4 * 40
    again = sim.sweep(**asked, keep_records=True)
    assert len(ran) == 8
    assert again.records().equals(kept.records())


def test_what_is_said_and_written(tmp_path: Path) -> None:
    found = sim.sweep(policy=["fcfs", "srpt"], load="0.5,0.9", slo="ttft=1s", **SMALL)
    assert repr(found) == "Sweep(fcfs, srpt (oracle); load 0.5, 0.9; 16 runs)"
    text = str(found)
    assert "sweep over load 0.5, 0.9" in text
    assert "mean JCT, fcfs over the column, paired by seed" in text
    assert "goodput req/s" in text
    assert max(map(len, text.splitlines())) <= 100
    page = found._repr_html_()
    assert "<table" in page
    assert "srpt (oracle)" in page
    written = found.save(tmp_path)
    assert {path.name for path in written} == {"run.json", "summaries.csv", "summary.json"}
    assert sim.Sweep.read(tmp_path).table() == found.table()
    assert json.loads((tmp_path / "summary.json").read_text())["axes"] == {"load": [0.5, 0.9]}
    with pytest.raises(ValueError, match="no measure 'mean_jct'"):
        found.points("mean_jct")


def test_the_command_draws_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "--synth", SYNTH, "--policy", "fcfs", "--load", "0.5,0.9", "--seeds", "1"]
    usual = {"mean_jct_s", "p99_jct_s", "mean_ttft_s", "p99_ttft_s"}
    for show, drawn in (("ratio,p50_jct_s", {"p50_jct_s"}), ("goodput_rps", usual), ("all", usual)):
        out = tmp_path / show
        assert main([*command, "--out", str(out), "--show", show]) == 0
        assert {path.stem for path in out.glob("curves*.png")} == {"curves", *[f"curves-{name}" for name in drawn]}
    assert "p50 JCT" in capsys.readouterr().out


def test_curves(tmp_path: Path) -> None:
    found = sim.sweep(policy=["fcfs", "srpt"], load="0.5,0.9", max_batch=[4, 8], slo="ttft=1s", synth=SYNTH, seeds=2)
    written = {path.name for path in found.plot(tmp_path, ["mean_jct_s", "goodput_rps"])}
    assert {"curves.pdf", "curves.png", "curves-mean_jct_s.png", "curves-goodput_rps.pdf"} <= written
    figure = found.plot(measures=["mean_jct_s"])
    assert [axes.get_title() for axes in figure.axes] == ["max batch 4", "max batch 8"]
    for axes in figure.axes:  # one scale for both, and every mean on it
        low, high = axes.get_ylim()
        assert all(low < mean < high for mean in found.points()["mean"])
    line = figure.axes[0].get_lines()[0]
    assert np.allclose(line.get_ydata(), found.points().query("label == 'fcfs' and max_batch == 4")["mean"])
    with pytest.raises(ValueError, match="no axis with two numbers"):
        sim.sweep(policy="fcfs", load=0.5, **SMALL).plot(tmp_path)


def test_two_rows_of_one_policy_are_one_run_and_two_rows(tmp_path: Path, ran: list[tuple[str, int]]) -> None:
    twice = [PolicySpec("fcfs", label="one"), PolicySpec("fcfs", label="other")]
    found = sim.sweep(policy=twice, load="0.5,0.9", out=tmp_path, **SMALL)
    assert len(ran) == 8
    assert len(found.rows) == found.runs_planned == 16
    assert (found.ratios()["ratio"] == 1.0).all()
    assert len(sim.Sweep.read(tmp_path).rows) == 16


def test_a_point_at_which_nothing_fits_leaves_the_others() -> None:
    long: dict[str, Any] = {
        "policy": "fcfs",
        "load": 0.5,
        **SMALL,
        "synth": "n=40,rate=2,prompt=fixed:100,output=fixed:9",
    }
    found = sim.sweep(kv_tokens=[16, 50_000], **long)
    assert {one.at["kv_tokens"] for one in found.failed} == {16}
    assert "no request of the trace fits in the KV pool" in found.failed[0].why
    assert found.points()["status"].tolist() == ["failed", "ok"]
    with pytest.raises(ValueError, match="no request of the trace fits"):
        sim.sweep(kv_tokens=[16, 32], **long)


def test_curves_of_knobs_and_of_words(tmp_path: Path) -> None:
    """Lines of one policy differ in their dashes; what is no number is no place of a curve."""
    knobs = [PolicySpec("mlfq", {"ratio": [2, 4]}), "fcfs"]
    asked: dict[str, Any] = {"policy": knobs, "load": 0.9, "synth": SYNTH, "seeds": 1, "max_batch": 4}
    found = sim.sweep(kv_tokens=["unlimited", 20_000, 40_000], **asked)
    figure = found.plot(measures=["mean_jct_s"])
    lines = {
        str(line.get_label()): line for line in figure.axes[0].get_lines() if not str(line.get_label()).startswith("_")
    }
    assert list(lines) == ["mlfq ratio=2", "mlfq ratio=4", "fcfs"]
    assert len({lines["mlfq ratio=2"].get_linestyle(), lines["mlfq ratio=4"].get_linestyle()}) == 2
    assert list(lines["fcfs"].get_xdata()) == [20_000, 40_000]
    assert "kv_tokens" not in found.settings
    over = sim.sweep(**asked).plot(measures=["mean_jct_s"])
    level = next(line for line in over.axes[0].get_lines() if line.get_label() == "fcfs")
    assert len(set(level.get_ydata())) == 1


def test_settings_are_those_of_every_point() -> None:
    """Not the reserve of the first batch cap, nor the recipe at the first load."""
    found = sim.sweep(policy="fcfs", load="0.5,0.9", max_batch="4,8", synth=SYNTH, seeds=1)
    assert not {"load", "rate", "max_batch", "kv_reserve", "prefetch_quota"} & {*found.settings}
    assert found.settings["synth"].startswith("n=40,rate=2")
    assert found.settings["latency"] == "opt-13b-a100"
