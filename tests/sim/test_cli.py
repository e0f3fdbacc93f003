"""python -m sim from end to end: what it prints and writes, how it refuses, and what Ctrl-C leaves."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fastserve import atomic_files
from sim.__main__ import main
from tests.observers.chrome_trace import check

CHECKOUT = Path(__file__).parents[2]
BUNDLED = str(CHECKOUT / "traces" / "azure-conv-like.jsonl")
FEW = [BUNDLED, "--num-requests", "40", "--rate", "2", "--max-batch", "4"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured capacities stay inside the test run, and are shared by its tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a run that must end with status 2 and print nothing else."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    told = capsys.readouterr()
    assert status == 2
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("python -m sim: ")
    return line


# -- what it prints and writes -----------------------------------------------------------------------------------------


def test_the_table_names_every_row_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FEW, "--policy", "fcfs", "--policy", "srpt", "--policy", "mlfq", "--label", "mine"]) == 0
    page = capsys.readouterr().out
    for told in ("\nfcfs ", "\nsrpt (oracle) ", "\nmine ", "max batch 4", "rate 2", "opt-13b-a100", "by default: "):
        assert told in page
    assert max(map(len, page.splitlines())) <= 120


def test_a_wide_batch_has_a_wide_token_budget_and_the_header_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FEW, "--policy", "fcfs", "--max-batch", "400"]) == 0
    assert "token budget 800" in capsys.readouterr().out


def test_json_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    policies = ["--policy", "mlfq", "--set", "q1=0.05", "--label", "slow", "--policy", "fcfs"]
    assert main([*FEW, *policies, "--seeds", "2", "--json"]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out, parse_constant=lambda name: pytest.fail(f"{name} in the document"))
    assert set(document) == {"format", "settings", "reading", "runs", "notable"}
    assert [(run["policy"], run["label"], run["seed"]) for run in document["runs"]] == [
        ("mlfq", "slow", 0),
        ("mlfq", "slow", 1),
        ("fcfs", "fcfs", 0),
        ("fcfs", "fcfs", 1),
    ]
    assert document["settings"]["max_batch"] == 4
    assert document["settings"]["seeds"] == [0, 1]
    for run in document["runs"]:
        assert set(run) == {"policy", "label", "seed", "settings", "summary"}
        assert run["settings"].get("q1") == (0.05 if run["label"] == "slow" else None)
        summary = run["summary"]
        assert summary["n"] == 40
        for key in ("mean", "p50", "p95", "p99", "max"):
            assert summary[f"{key}_jct_s"] > 0
        assert {"mean_ttft_s", "mean_s_per_token", "preemptions_per_job"} <= set(summary)
        assert all(not isinstance(value, dict | list) for value in summary.values())
    means = [run["summary"]["mean_jct_s"] for run in document["runs"]]
    assert means[2] != means[3]


def test_out_and_csv_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert main([*FEW, "--policy", "fcfs", "--out", str(out), "--csv", "--plot"]) == 0
    names = sorted(path.name for path in out.iterdir())
    figures = ["jct_bars.pdf", "jct_bars.png", "jct_cdf.pdf", "jct_cdf.png"]
    assert names == sorted(["records.csv", "records.parquet", "run.json", "summary.json", *figures])
    assert pq.read_table(out / "records.parquet").num_rows == 40
    told = capsys.readouterr()
    assert all(name in told.err for name in names)
    assert "wrote" not in told.out


def test_timeline_iterations_and_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--timeline", str(tmp_path / "t.json"), "--iterations", str(tmp_path / "deep" / "i.csv")]
    assert main([*FEW, "--policy", "sj-mlfq", "--policy", "fcfs", "--seeds", "2", "--explain", "7", *files]) == 0
    told = capsys.readouterr()
    assert "\njob 7 under sj-mlfq, seed 0\n" in told.out
    assert "\njob 7 under fcfs, seed 0\n" in told.out
    assert told.out.count("first token") == 2
    assert "seed 1\n" not in told.out
    assert "gaps between tokens: mean" in told.err
    drawn = check((tmp_path / "t.json").read_text())
    assert list(drawn.groups.values()) == ["sj-mlfq", "fcfs"]
    for pid in drawn.groups:
        visits = {event["name"] for event in drawn.events if event["pid"] == pid and event.get("cat") == "visit"}
        assert visits == {f"job {id}" for id in range(40)}
    assert {event["pid"] for event in drawn.events if event["name"] == "queue levels"} == {1}  # fcfs has none
    with (tmp_path / "deep" / "i.csv").open(newline="") as file:
        assert sum([len(row["ended"].split()) for row in csv.DictReader(file)]) == 40


def test_explain_goes_into_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FEW, "--policy", "fcfs", "--policy", "srpt", "--explain", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["explain"]) == {"fcfs", "srpt (oracle)"}
    for lines in document["explain"].values():
        assert lines[0]["what"].startswith("arrived")
        assert lines[-1]["what"].startswith("ended (stop)")
        assert set(lines[0]) == {"at_s", "age_s", "served_s", "generated", "what"}
        assert all(math.isfinite(line["at_s"]) for line in lines)


def test_a_pool_gives_what_one_process_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*FEW, "--policy", "mlfq", "--policy", "fcfs", "--seeds", "2", "--json", "--explain", "3"]
    assert main([*arguments, "--processes", "1"]) == 0
    serial = capsys.readouterr().out
    assert main([*arguments, "--processes", "2", "--timeline", str(tmp_path / "t.json")]) == 0
    assert capsys.readouterr().out == serial


# -- how it refuses ----------------------------------------------------------------------------------------------------

REFUSALS = [
    (["--policy", "lifo"], r"no policy 'lifo'; there are fcfs, .*srpt"),
    (["--policy", "nowhere:Mine"], "no module 'nowhere'"),
    (["--policy", "mlfq", "--set", "quantum=1"], "has no setting 'quantum'; it has q1, ratio, levels"),
    (["--policy", "mlfq", "--set", "q1"], "write it as KEY=VALUE"),
    (["--policy", "mlfq", "--set", "q1=-1"], "q1=-1"),
    (["--policy", "mlfq", "--set", "q1=long"], "policy mlfq: "),
    (["--set", "q1=1", "--policy", "mlfq"], "belongs to the --policy before it"),
    (["--latency", "opt-13b-a1000"], "opt-13b-a1000.*presets: .*opt-13b-a100"),
    (["--policy", "srpt", "--predictor", "none"], "srpt needs a guess.*predictor"),
    (["--policy", "srpt", "--predictor", "tarot"], "no predictor 'tarot'"),
    (["--policy", "fcfs", "--policy", "fcfs"], "two rows have the label 'fcfs': give them labels"),
    (["--policy", "fcfs", "--policy", "mlfq", "--label", "fcfs"], "two rows have the label 'fcfs'"),
    (["--load", "0.8", "--rate", "2"], "not both"),
    (["--batching", "magic"], "--batching.*magic.*mixed"),
    (["--kv-tokens", "many"], "'many' is neither"),
    (["--seeds", "0"], "at least 1"),
    (["--processes", "0"], "at least 1"),
    (["--policy", "fcfs", "--predictor", "tarot"], "no predictor 'tarot'"),
    (["--token-budget", "3"], "token budget of 3"),
    (["--kv-tokens", "10"], "must hold one block"),
    (["--max-batch", "0"], "at least 1"),
    (["--warmup", "nan"], "warmup=nan must be a finite number of seconds"),
    (["--static-timeout", "inf"], "static_timeout=inf must be a finite number of seconds"),
    (["--link-latency", "inf"], "link_latency=inf must be a finite number of seconds"),
    (["--block-tokens", "0"], "block_tokens=0 must be at least 1"),
    (["--max-backlog", "0"], "max_backlog=0 must be at least 1"),
    (["--kv-reserve", "-1"], "kv_reserve=-1 must be at least 0"),
    (["--prefetch-quota", "-1"], "prefetch_quota=-1 must be at least 0"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSALS, ids=[" ".join(case[0]) for case in REFUSALS])
def test_what_cannot_run_is_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.arguments.read_trace", lambda *_, **__: pytest.fail("it began to read the trace"))
    line = refused(capsys, BUNDLED, *arguments)
    assert re.search(said, line), line


def test_a_trace_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(capsys, str(tmp_path / "trace.csv"))
    assert "folder" in refused(capsys, str(tmp_path))


def test_an_unknown_job_is_refused_before_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.__main__.replay", lambda *_, **__: pytest.fail("it began to run"))
    assert "they are 0 to 39" in refused(capsys, *FEW, "--explain", "40")
    assert "they are 0 to 39" in refused(capsys, *FEW, "--explain", "-1")


@pytest.mark.parametrize("flag", ["--out", "--plot", "--timeline", "--iterations"])
def test_what_cannot_be_written_is_refused_before_the_run(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.arguments.read_trace", lambda *_, **__: pytest.fail("it began to read"))
    (tmp_path / "file").write_text("in the way")
    line = refused(capsys, BUNDLED, flag, str(tmp_path / "file" / "below"))
    assert f"Cannot write {tmp_path}" in line
    if flag in ("--timeline", "--iterations"):
        assert "is a folder" in refused(capsys, BUNDLED, flag, str(tmp_path))
        os.mkfifo(tmp_path.with_suffix(".pipe"))
        assert "not a regular file" in refused(capsys, BUNDLED, flag, str(tmp_path.with_suffix(".pipe")))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_folder_of_a_sweep_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text('{"format": "sim_sweep/1"}')
    monkeypatch.setattr("sim.arguments.read_trace", lambda *_, **__: pytest.fail("it began to read"))
    assert "holds the files of something else" in refused(capsys, BUNDLED, "--out", str(tmp_path))
    assert "sim_sweep" in (tmp_path / "run.json").read_text()


def test_a_load_that_did_not_come_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The phases are longer than the trace, which sees one of them."""
    phases = "n=60,rate=1,lengths=profile:alpaca,arrivals=mmpp:rates=1/9,stay=9000/9000"
    steady = "n=400,rate=1,lengths=profile:alpaca"
    said = {}
    for synth in (phases, steady):
        assert main(["--synth", synth, "--load", "0.8", "--policy", "fcfs", "--seeds", "1"]) == 0
        said[synth] = " ".join(capsys.readouterr().out.split())
    found = re.search(
        r"came at (\S+) requests/s where (\S+) were asked for; [^(]*\(n\)[^(]*\(load (\S+)\)", said[phases]
    )
    assert found is not None
    came, rate, load = map(float, found.groups())
    assert load == pytest.approx(0.8 * came / rate, rel=0.02) and not 0.64 < load < 1
    assert "were asked for" not in said[steady]


def test_a_disk_that_fills_up_is_one_line_and_the_table_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.Path, "replace", full)
    assert main([*FEW, "--policy", "fcfs", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "\nfcfs " in told.out
    (line,) = told.err.splitlines()
    assert "No space left on device" in line
    assert list(tmp_path.iterdir()) == []


POLICIES = """
from fastserve import Policy

class Breaks(Policy):
    settled = True
    def rank(self, job):
        if job.id == 9:
            raise KeyError("nine")
        return job.arrival

class Mute(Policy):
    def rank(self, job):
        return 0
    def explain(self, job):
        return self.words

class Unborn(Policy):
    def __init__(self):
        self.table = {}["missing"]
    def rank(self, job):
        return 0
"""


def test_a_policy_that_breaks_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_policies.py").write_text(POLICIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for more in ([], ["--seeds", "2", "--processes", "2"]):
        assert main([*FEW, "--policy", "broken_policies:Breaks", *more]) == 1
        told = capsys.readouterr()
        (line,) = told.err.splitlines()
        assert "policy Breaks, rank() of job 9" in line
        assert "KeyError: 'nine'" in line
        assert "broken_policies.py, line 8" in line
    assert main([*FEW, "--policy", "broken_policies:Mute", "--explain", "1"]) == 1
    assert "policy Mute, explain() of job 1" in capsys.readouterr().err
    assert "Unborn cannot be imported and made: KeyError" in refused(capsys, *FEW, "--policy", "broken_policies:Unborn")


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------

SLOW = '''
import os
import pathlib
from fastserve import Policy

class Slow(Policy):
    """Says that it runs, and would take for ever: unsettled, with a long walk for each rank."""
    def rank(self, job):
        pathlib.Path(f"started-{os.getpid()}").touch()
        sum(range(100_000))
        return job.arrival
'''


def interrupted(tmp_path: Path, slow: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ctrl-C for the whole process group, as a terminal does it, once so many processes run the slow policy."""
    (tmp_path / "slow_policy.py").write_text(SLOW)
    command = [sys.executable, "-m", "sim", BUNDLED, "--rate", "2", "--out", "out", *arguments]
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(1200):
        if len(list(tmp_path.glob("started-*"))) == slow or process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(1.0)  # the runs before it have ended; their results are on their way to the parent
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_ctrl_c_in_one_process_keeps_what_is_finished(tmp_path: Path) -> None:
    done = interrupted(tmp_path, 1, "--policy", "fcfs", "--policy", "slow_policy:Slow", "--processes", "1", "--json")
    assert done.returncode == 130, done.stderr
    assert "interrupted; 1 of 2 runs were finished, the last one only in part" in done.stderr
    assert "Traceback" not in done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert [run["label"] for run in runs] == ["fcfs", "slow_policy:Slow"]
    assert runs[0]["summary"]["completed"] == 1000
    assert runs[1]["settings"]["interrupted"] is True
    kept = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert kept["runs"] == runs
    assert set(pq.read_table(tmp_path / "out" / "records.parquet")["label"].to_pylist()) >= {"fcfs"}


def test_ctrl_c_in_a_pool_keeps_what_is_finished(tmp_path: Path) -> None:
    arguments = ["--policy", "fcfs", "--policy", "slow_policy:Slow", "--processes", "2", "--seeds", "2"]
    done = interrupted(tmp_path, 2, *arguments)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "interrupted; 2 of 4 runs were finished, and what is shown" in done.stderr
    assert "\nfcfs " in done.stdout
    kept = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(run["label"], run["seed"]) for run in kept["runs"]] == [("fcfs", 0), ("fcfs", 1)]


def test_ctrl_c_before_anything_is_finished(tmp_path: Path) -> None:
    done = interrupted(tmp_path, 2, "--policy", "slow_policy:Slow", "--processes", "2", "--seeds", "2")
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "interrupted; 0 of 2 runs were finished, and nothing is written" in done.stderr
    assert not (tmp_path / "out" / "summary.json").exists()
