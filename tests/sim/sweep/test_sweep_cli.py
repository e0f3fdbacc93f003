"""python -m sim sweep, as it is typed: one command for a table and curves, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.__main__ import main

CHECKOUT = Path(__file__).resolve().parents[3]
SYNTH = ["--synth", "n=40,rate=2", "--max-batch", "4"]

SLOW = """import time
from fastserve import Policy


class Slow(Policy):
    def __init__(self):
        self.slept = False

    def rank(self, job):
        if not self.slept:
            self.slept = True
            time.sleep(0.5)
        return job.arrival
"""


def test_one_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    asked = ["--policy", "fcfs", "--policy", "mlfq", "--set", "ratio=2,4", "--load", "0.5:0.9:0.4", "--seeds", "4"]
    assert main(["sweep", *SYNTH, *asked, "--slo", "ttft=1s", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "sweep over load 0.5, 0.9; ratio 2, 4" in captured.out
    assert "load  fcfs  mlfq ratio=2  mlfq ratio=4" in captured.out
    assert "goodput req/s" in captured.out
    assert "24/24" in captured.err  # the progress line
    assert max(map(len, captured.out.splitlines())) <= 100
    names = {path.name for path in out.iterdir()}
    assert names >= {"run.json", "cases", "summaries.csv", "summary.json", "curves.png", "curves-goodput_rps.pdf"}
    assert len(list((out / "cases").iterdir())) == 24
    lines = (out / "summaries.csv").read_text().splitlines()
    assert lines[0].startswith("policy,label,load,ratio,seed,")
    assert len(lines) == 25


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *SYNTH, "--policy", "fcfs", "--rate", "1,2", "--seeds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "sim_sweep/1"
    assert found["axes"] == {"rate": [1.0, 2.0]}
    assert [row["at"] for row in found["rows"]] == [{"rate": 1.0}, {"rate": 2.0}]


def test_both_ways_of_a_switch(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--policy", "fcfs", "--seeds", "1", "--json"]
    assert main(["sweep", *SYNTH, *asked, "--skip-misfits", "--no-skip-misfits"]) == 0
    assert json.loads(capsys.readouterr().out)["axes"] == {"skip_misfits": [True, False]}
    assert main(["sweep", *SYNTH, *asked, "--duplex"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["axes"], found["settings"]["duplex"]) == ({}, True)


def test_routers_are_rows_and_replicas_an_axis(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--policy", "fcfs", "--router", "round-robin", "--router", "least-tokens", "--replicas", "1,2"]
    assert main(["sweep", *SYNTH, *asked, "--seeds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["axes"] == {"replicas": [1, 2]}
    assert list(found["policies"]) == ["round-robin + fcfs", "least-tokens + fcfs"]
    assert len(found["rows"]) == 4


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--load", "1:0:0.1"], "argument --load: load=1:0:0.1: no value"),
        (["--load", "0:1:1e-9"], "1,000,000,001 values, and an axis has at most 1,000"),
        (["--load", "0.5:1"], "'0.5:1' is not a number; several values are written START:STOP:STEP"),
        (["--batching", "chunked,mixd"], "batching='mixd' is none of"),
        (["--loads", "0.5,1"], "unrecognized arguments: --loads"),
        (["--load", "0.5,1", "--show", "mean_jct"], "there is no column 'mean_jct'"),
        (["--load", "0.5,1", "--jobs", "0"], "jobs=0: give at least 1"),
    ],
)
def test_slips_are_one_line(asked: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["sweep", *SYNTH, "--policy", "fcfs", *asked])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert "Traceback" not in captured.err


def test_a_policy_that_breaks_at_a_point_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "mine.py"
    own.write_text(
        "from fastserve import Policy\n\n\nclass Mine(Policy):\n    def rank(self, job):\n"
        "        return job.arrival // (self.machine.slots - 8)\n"
    )
    asked = ["--policy", "fcfs", "--policy", f"{own}:Mine", "--max-batch", "4,8", "--rate", "2", "--seeds", "1"]
    assert main(["sweep", *SYNTH[:2], *asked]) == 1
    captured = capsys.readouterr()
    assert "failed" in captured.out
    assert "1 of 4 runs failed" in captured.err
    assert "Mine at max_batch 8, seed 0" in captured.err
    assert "mine.py, line 6" in captured.err


def begun(folder: Path, jobs: int) -> subprocess.Popen[str]:
    """A sweep of quick and slow runs of which a few are done."""
    (folder / "slow.py").write_text(SLOW)
    command = [
        sys.executable,
        "-m",
        "sim",
        "sweep",
        *SYNTH,
        "--policy",
        "fcfs",
        "--policy",
        "slow:Slow",
        "--rate",
        "1,2",
    ]
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*command, "--seeds", "4", "--out", "out", "--jobs", str(jobs)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(2400):
        if len(list(folder.glob("out/cases/*.json"))) >= 3 or process.poll() is not None:
            break
        time.sleep(0.025)
    return process


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path, jobs: int) -> None:
    process = begun(tmp_path, jobs)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    kept = len(list(tmp_path.glob("out/cases/*.json")))
    assert 3 <= kept < 16
    assert f"interrupted; {kept} of 16 runs are finished, and kept in out; the same command goes on from there" in err
    assert "Traceback" not in err
    assert "fcfs" in out
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    """kill -9 leaves whole files only, and the next sweep makes the others."""
    process = begun(tmp_path, 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    done = {path.name for path in tmp_path.glob("out/cases/*.json")}
    assert 3 <= len(done) < 16
    for name in done:
        assert json.loads((tmp_path / "out" / "cases" / name).read_text())["numbers"]
    (tmp_path / "slow.py").write_text(SLOW)
    times = {name: (tmp_path / "out" / "cases" / name).stat().st_mtime_ns for name in done}
    again = subprocess.run(
        [*process.args],  # type: ignore[misc]
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert {name: (tmp_path / "out" / "cases" / name).stat().st_mtime_ns for name in done} == times
    assert len(list(tmp_path.glob("out/cases/*.json"))) == 16
    assert (tmp_path / "out" / "summary.json").exists()


def test_a_grid_without_numbers_has_no_curves_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--policy", "fcfs", "--batching", "mixed,chunked", "--seeds", "1", "--plot", str(tmp_path)]
    assert main(["sweep", *SYNTH, *asked]) == 0
    assert "no curves: nothing that varies is a number" in capsys.readouterr().err
