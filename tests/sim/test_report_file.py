"""The page of a run as a file: whole in itself, small, bounded and told where it was cut, whatever names are in it."""

from __future__ import annotations

import base64
import html
import json
import pickle
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

import sim
from fastserve.observers import schedule as bounds
from fastserve.policies.mlfq import Mlfq
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import Job
from sim.__main__ import main
from sim.replay import Result, replay
from sim.report.page import Schedules, shell

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT / "traces" / "azure-conv-like.jsonl"
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&<!--\u202e\u2028x"


class Hostile(Mlfq):
    """Mlfq whose words are markup."""

    def explain(self, job: Job) -> str:
        return f"{super().explain(job)} {HOSTILE}"


def data_of(path: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found is not None
    data = json.loads(found[1])
    for one in data["schedules"]:
        one["schedule"] = json.loads(zlib.decompress(base64.b64decode(one["packed"])))
    return data


def small(policy: Any = ("fcfs", "sj-mlfq"), **changes: Any) -> Result:
    return replay(TRACE, policy, num_requests=60, load=1.2, max_batch=4, progress=False, **changes)


def test_it_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    text = small().report(tmp_path / "r.html").read_text(encoding="utf-8")
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!#|data:)', markup)
    assert "@import" not in text and "url(" not in text
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import)\s*\(", text)
    assert "default-src 'none'" in text and "unsafe-inline" not in text
    assert "@@" not in markup


def test_300_jobs_under_four_policies_are_below_2_mb(tmp_path: Path) -> None:
    """Where each is preempted some forty times; and nothing of it is cut."""
    policies = ["fcfs", "sj-mlfq", "mlfq", "las"]
    result = replay(TRACE, policies, num_requests=300, load=1.1, max_batch=12, progress=False)
    path = result.report(tmp_path / "r.html")
    assert path.stat().st_size < 2_000_000
    assert all(one["schedule"]["cut"] is None for one in data_of(path)["schedules"])
    assert [one["label"] for one in data_of(path)["schedules"]] == policies


def test_a_long_run_is_cut_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds.Schedule.__init__, "__defaults__", (500, 2_000_000))
    fcfs, mlfq = data_of(small(("fcfs", "mlfq")).report(tmp_path / "r.html"))["schedules"]
    assert fcfs["schedule"]["cut"] is None
    assert 0 < mlfq["schedule"]["cut"] < mlfq["schedule"]["ended"]
    assert len(mlfq["schedule"]["columns"]["at"]) == 500


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    result = small([PolicySpec("fcfs", label=HOSTILE), PolicySpec(Hostile, label="theirs")])
    text = result.report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("</script>") == 2
    data = data_of(tmp_path / "r.html")
    assert data["schedules"][0]["label"] == HOSTILE
    assert any(HOSTILE in said for said in data["schedules"][1]["schedule"]["texts"])
    assert html.escape(HOSTILE) in text


def test_curves_are_those_of_the_records(tmp_path: Path) -> None:
    result = small(seeds=2)
    data = data_of(result.report(tmp_path / "r.html"))
    jct, ttft = data["charts"]
    for chart, column in ((jct, "jct_from_arrival"), (ttft, "ttft")):
        for series in chart["series"]:
            of_label = [run.records[column] for run in result.runs if run.label == series["label"]]
            times = sorted(time for column in of_label for time in column)
            assert series["x"][0] == pytest.approx(times[0], rel=1e-4)
            assert series["x"][-1] == pytest.approx(times[-1], rel=1e-4)
            assert series["y"][-1] == 1 and len(times) == 120
            half = next(x for x, y in zip(series["x"], series["y"], strict=True) if y >= 0.5)
            assert times[57] <= half <= times[62]


def test_the_command_writes_it_and_the_same_result_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The runs that were looked at are those that a Result runs once more by itself; other observers look, too."""
    path, other = tmp_path / "r.html", tmp_path / "t.json"
    flags = ["--num-requests", "60", "--load", "1.2", "--max-batch", "4", "--timeline", str(other)]
    assert main([str(TRACE), *flags, "--policy", "fcfs", "--policy", "sj-mlfq", "--report", str(path)]) == 0
    assert f"wrote {other}, {path}" in capsys.readouterr().err
    again = tmp_path / "again.html"
    result = pickle.loads(pickle.dumps(small()))
    assert isinstance(result, sim.Result) and result.again is None
    small().report(again)
    assert data_of(path)["schedules"] == data_of(again)["schedules"] != []


def test_a_file_that_cannot_be_written_is_told_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(TRACE), "--num-requests", "5", "--report", str(tmp_path / "no" / "where" / "")]) == 0
    assert main([str(TRACE), "--num-requests", "5", "--report", str(TRACE / "r.html")]) == 2
    same = str(tmp_path / "x")
    assert main([str(TRACE), "--num-requests", "5", "--report", same, "--timeline", same]) == 2
    assert "timeline and report are both" in capsys.readouterr().err


def test_of_a_cluster_it_is_the_first_replica(tmp_path: Path) -> None:
    result = small(("mlfq",), replicas=3, router="round-robin")
    (one,) = data_of(result.report(tmp_path / "r.html"))["schedules"]
    assert "the first of 3 replicas" in one["note"]
    columns = one["schedule"]["columns"]
    (run,) = result.runs
    mine = set(run.records["id"][run.records["replica"] == 0].tolist())
    assert {job for job in columns["job"] if job >= 0} == mine != set()


def test_a_module_that_does_more_than_import_and_export_names_is_refused(tmp_path: Path) -> None:
    for text in ("export default 1;\n", 'import * as x from "./y.js";\n', 'const a = "</script>";\n'):
        (tmp_path / "bad.js").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.js: only"):
            shell._module(tmp_path, "bad.js")


def test_without_runs_there_is_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run was finished"):
        Result({}).report(tmp_path / "r.html")


def test_only_the_first_seed_is_looked_at() -> None:
    schedules = Schedules()
    small(seeds=2, observe=schedules.observe)
    assert set(schedules.of) == {"fcfs", "sj-mlfq"}
    assert Schedules().observe(PolicySpec("fcfs"), "fcfs", 1) is None


def swept(**changes: Any) -> sim.Sweep:
    asked = {"load": [0.6, 1.0, 1.4], "num_requests": 60, "max_batch": 4, "seeds": 2} | changes
    return sim.sweep(TRACE, ["fcfs", "sj-mlfq"], **asked)


def test_a_sweep_has_its_curves_tables_and_crossings(tmp_path: Path) -> None:
    sweep = swept()
    path = sweep.report(tmp_path / "s.html")
    charts = {chart["y"]: chart for chart in data_of(path)["charts"]}
    mean = charts["mean JCT s"]
    assert mean["x"] == "load" and mean["logY"]
    for series in mean["series"]:
        points = sweep.points().query("label == @series['label']")
        assert series["x"] == points["load"].tolist() == [0.6, 1.0, 1.4]
        assert series["y"] == pytest.approx(points["mean"].tolist())
        assert all(low <= y <= high for low, y, high in zip(series["low"], series["y"], series["high"], strict=True))
        assert series["hollow"] == [status != "ok" for status in points["status"]]
    text = path.read_text(encoding="utf-8")
    assert html.escape(sweep.table()) in text
    assert text.count('class="crossings"') == bool(sweep.crossed("mean_jct_s"))


def test_a_sweep_of_hostile_names_stays_text(tmp_path: Path) -> None:
    asked = {"load": [0.6, 1.0], "num_requests": 30, "max_batch": 4, "seeds": 1}
    sweep = sim.sweep(TRACE, [PolicySpec("fcfs", label=HOSTILE), PolicySpec(Hostile, label="theirs")], **asked)
    text = sweep.report(tmp_path / "s.html").read_text(encoding="utf-8")
    assert "<img" not in text and text.count("</script>") == 2
    assert data_of(tmp_path / "s.html")["charts"][0]["series"][0]["label"] == HOSTILE


def test_other_axes_of_a_sweep_are_panels_and_own_knobs_are_lines(tmp_path: Path) -> None:
    asked = {"load": [0.6, 1.0], "max_batch": [4, 8], "num_requests": 30, "seeds": 1}
    sweep = sim.sweep(TRACE, ["fcfs", PolicySpec("mlfq", {"ratio": [2, 4]})], **asked)
    charts = [chart for chart in data_of(sweep.report(tmp_path / "s.html"))["charts"] if chart["y"] == "mean JCT s"]
    assert [chart["title"] for chart in charts] == ["mean JCT s, max batch 4", "mean JCT s, max batch 8"]
    assert [series["label"] for series in charts[0]["series"]] == ["fcfs", "mlfq ratio=2", "mlfq ratio=4"]


def test_the_command_of_a_sweep_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.html"
    flags = ["--num-requests", "30", "--max-batch", "4", "--load", "0.6,1.0", "--seeds", "1", "--policy", "fcfs"]
    assert main(["sweep", str(TRACE), *flags, "--report", str(path)]) == 0
    assert f"wrote {path}" in capsys.readouterr().err
    assert len(data_of(path)["charts"]) == 4


def test_the_page_on_looking_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks about reports, run in an empty folder beside which the traces lie."""
    text = (ROOT / "docs" / "looking.md").read_text(encoding="utf-8")
    mine = text[text.index("## A page of a run") :].split("\n## ", maxsplit=1)[0]
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", mine, re.DOTALL)
    for block in blocks:
        exec(compile(block, "docs/looking.md", "exec"), {})
    assert len(blocks) == 2 and len(data_of(tmp_path / "engine.html")["schedules"]) == 2
    commands = re.findall(r"^    python -m sim (.*?\.html)$", mine, re.DOTALL | re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        (words,) = [line.split() for line in [command.replace("\\\n", " ")]]
        assert main([*words, "--seeds", "1"]) == 0
    assert len(data_of(tmp_path / "report.html")["schedules"]) == 3 and (tmp_path / "sweep.html").exists()
