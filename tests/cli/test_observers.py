"""What may be looked at from the command lines: timelines, iteration logs, lives, and observers of one's own."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastserve.__main__ import main
from fastserve.observers.iterations import COLUMNS
from sim.__main__ import main as simulate
from tests.observers.chrome_trace import check

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "tests" / "server" / "scripted_server.py"
PATIENCE = 30.0

OWN = """
from fastserve import Observer


class Ends(Observer):
    def __init__(self):
        self.ends = 0

    def began(self, run, now):
        self.about = run.about

    def committed(self, plan, outcome, finished, now):
        self.ends += len(finished)

    def ended(self, now):
        with open("ends.txt", "a") as file:
            print(self.about["policy"], self.ends, file=file)


class Unset(Observer):
    def __init__(self):
        raise ValueError("no folder is set")


class Breaks(Observer):
    def planned(self, plan, now):
        raise RuntimeError("as asked")


class Picky(Observer):
    def __init__(self, setting):
        pass


class Other:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty one but for an observer, and the one to be in."""
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("mine", None)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COLUMNS
    return found


def events(path: Path, whole: bool = True) -> list[dict[str, Any]]:
    return check(path.read_text(), whole).events


def visits(found: list[dict[str, Any]]) -> set[str]:
    return {event["name"] for event in found if event.get("cat") == "visit"}


# -- generate ----------------------------------------------------------------------------------------------------------

GENERATE = ["generate", "--latency", "opt-13b-a100", "--dtype", "float32", "--max-tokens", "8", "--ignore-eos"]


@pytest.mark.usefixtures("one_thread")
def test_generate_writes_and_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    files = ["--timeline", "t.json", "--iterations", "deep/i.csv", "--observer", "mine:Ends"]
    assert main([*GENERATE, "--prompt", "one", "--prompt", "two", "--explain", "1", *files]) == 0
    out = capsys.readouterr().out
    life = out[out.index("job 1 under sj-mlfq\n") :]
    assert "arrived: prompt of 3 tokens" in life
    assert "ended (length) with 8 tokens" in life
    assert visits(events(folder / "t.json")) == {"job 0", "job 1"}
    logged = rows(folder / "deep" / "i.csv")
    assert {row["iterations"] for row in logged} == {"1"}
    assert sum(int(row["batch"]) + len(row["prefilled"].split()) for row in logged) == 16
    assert (folder / "ends.txt").read_text() == "sj-mlfq 2\n"


@pytest.mark.usefixtures("one_thread")
def test_generate_tells_a_life_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main([*GENERATE, "--prompt", "one", "--prompt", "two", "--explain", "1", "--json"]) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "explain" not in first
    assert second["explain"][0]["what"].startswith("arrived")
    assert second["explain"][-1]["generated"] == 8


@pytest.mark.usefixtures("one_thread")
def test_generate_tells_the_life_that_a_word_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    prompts = ["--prompt", "one", "--prompt", "two", "--max-batch", "1"]
    assert main([*GENERATE, *prompts, "--policy", "fcfs", "--explain", "slowest", "--explain", "0"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^slowest: prompt 1, \S+ m?s under fcfs$", out, re.MULTILINE)  # it waits for the other one
    assert out.index("job 1 under fcfs\n") < out.index("job 0 under fcfs\n")
    assert out.count("ended (length) with 8 tokens") == 2
    assert main([*GENERATE, *prompts, "--policy", "fcfs", "--explain", "most-preempted"]) == 0
    assert "most-preempted: no job was preempted\n" in capsys.readouterr().out
    assert main([*GENERATE, *prompts, "--policy", "fcfs", "--explain", "slowest", "--json"]) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "explain" not in first and second["explain"][-1]["what"].startswith("ended (length)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explain", "2"], "--explain 2: there is no such prompt; they are 0 to 0"),
        (["--explain", "last"], "--explain last: give a prompt's number, or slowest, most-preempted or differs"),
        (["--explain", "differs"], "--explain differs: there is one policy"),
        (["--timeline", "."], "Cannot write .: Is a directory"),
        (["--observer", "mine"], "no observer 'mine'; give your own as module:Class"),
        (
            ["--observer", "mine:Other"],
            "observer 'mine:Other': Other is no subclass of fastserve.Observer; mine has Ends",
        ),
        (["--observer", "mine:None"], "observer 'mine:None': None does not exist; mine has Ends"),
        (["--observer", "absent:Ends"], "observer 'absent:Ends': no module 'absent'"),
        (["--timeline", "t.out", "--iterations", "./t.out"], "timeline and iterations are both t.out: give each"),
        (
            ["--observer", "mine:Unset"],
            "observer 'mine:Unset' cannot be imported and made without arguments: ValueError: no folder is set",
        ),
        (["--observer", "mine:Picky"], "observer 'mine:Picky' cannot be imported and made without arguments"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert main([*GENERATE, "--prompt", "one", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fastserve generate: error: {message}")


# -- the simulator -----------------------------------------------------------------------------------------------------


def test_the_simulator_takes_ones_own_in_every_run(folder: Path) -> None:
    trace = folder / "trace.csv"
    trace.write_text(
        "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i / 10},50,{5 + i % 7}\n" for i in range(30))
    )
    policies = ["--policy", "fcfs", "--policy", "las"]
    assert simulate([str(trace), *policies, "--seeds", "2", "--observer", "mine:Ends", "--processes", "2"]) == 0
    assert (folder / "ends.txt").read_text() == "fcfs 30\nfcfs 30\nlas 30\nlas 30\n"


def test_in_the_simulator_one_that_breaks_ends_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = folder / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,50,5\n1,50,5\n")
    assert simulate([str(trace), "--observer", "mine:Breaks"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m sim: observer Breaks, planned(): RuntimeError: as asked (")
    at = OWN.splitlines().index('        raise RuntimeError("as asked")') + 1
    assert f"mine.py, line {at})" in line
    assert simulate([str(trace), "--timeline", "t.out", "--iterations", "./t.out"]) == 2
    assert "timeline and iterations are both t.out" in capsys.readouterr().err
    assert simulate([str(trace), "--observer", "mine:Other"]) == 2
    assert "is no subclass of fastserve.Observer" in capsys.readouterr().err


# -- serve -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process with a scripted engine, and its URL."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder), "HOME": str(folder)}
    command = [sys.executable, str(SERVER), "20", "--port", "0", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"serving at (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(said))
        yield process, found[1]
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


def ask(url: str, count: int) -> None:
    httpx = pytest.importorskip("httpx")
    for _ in range(count):
        fields = {"prompt": "hello", "max_new_tokens": 6, "ignore_eos": True}
        assert httpx.post(f"{url}/generate", json=fields, timeout=PATIENCE).status_code == 200


FLAGS = ("--timeline", "t.json", "--iterations", "i.csv", "--observer", "mine:Ends")


def test_a_server_that_is_ended_leaves_whole_files(folder: Path) -> None:
    pytest.importorskip("fastapi")
    with serving(folder, *FLAGS) as (process, url):
        ask(url, 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert visits(events(folder / "t.json")) == {"job 0", "job 1", "job 2"}
    logged = rows(folder / "i.csv")
    assert sum(int(row["batch"]) + len(row["prefilled"].split()) for row in logged) == 18
    assert (folder / "ends.txt").read_text() == "sj-mlfq 3\n"


def test_a_server_that_is_killed_leaves_what_had_happened(folder: Path) -> None:
    """And its timeline is whole JSON all the same."""
    pytest.importorskip("fastapi")
    with serving(folder, *FLAGS) as (process, url):
        ask(url, 3)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    assert visits(events(folder / "t.json", whole=False)) == {"job 0", "job 1", "job 2"}
    assert sum(len(row["ended"].split()) for row in rows(folder / "i.csv")) == 3


def test_a_file_that_cannot_be_written_keeps_a_server_from_starting(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi")
    assert main(["serve", "--port", "0", "--timeline", str(folder)]) == 1
    assert f"fastserve serve: error: Cannot write {folder}: Is a directory." in capsys.readouterr().err
    assert main(["serve", "--port", "0", "--observer", "mine:Other"]) == 1
    assert "is no subclass of fastserve.Observer" in capsys.readouterr().err
