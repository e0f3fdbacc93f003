"""`ab` in sessions: the same programs in the same order under every contender, and measures of programs."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")

from fastserve.__main__ import main
from fastserve.cli.ab import text
from fastserve.compare import subprocess_server
from fastserve.compare.compare import OTHER_PROGRAMS, CompareError, Replay, Watch, compare
from fastserve.compare.contender import Contender
from fastserve.compare.http import HttpBody
from fastserve.engine import Engine
from fastserve.engine.playback import play_sessions
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace, write_trace
from fastserve.workload.session import SessionSettings
from sim.run import run_one
from sim.settings import Settings
from tests.bench.test_sessions import talks

CLOSED = SessionSettings(sessions=2)
MACHINE: dict[str, Any] = {"latency": "opt-13b-a100", "max_batch": 2, "kv_tokens": 4096}


class Scripted:
    """Each contender on a scripted engine, in modelled time. breaks: (round, label) in which it raises this."""

    def __init__(self, coming: SessionSettings = CLOSED, breaks: Any = None, context: int = 4096) -> None:
        self.coming = coming
        self.breaks = breaks
        self.context = context
        self.about = {"max_batch": 2}
        self.ran: list[tuple[str, int]] = []

    def check(self, contender: Contender) -> None: ...

    def machine(self) -> dict[str, Any]:
        return {}

    def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
        self.ran.append((contender.title, seed))
        if self.breaks is not None and len(self.ran) == self.breaks[0]:
            raise self.breaks[1]
        context = 80 if contender.title == "short" else self.context
        policy = contender.name
        with Engine.scripted(policy=policy, prefix_tokens=16, max_model_len=context, **MACHINE) as engine:
            played = play_sessions(engine, trace, self.coming, seed=seed)
        summary, table = played.measured()
        return Replay(played.records, summary, {"programs": table})


FCFS, MLFQ = PolicySpec("fcfs"), PolicySpec("mlfq")


def test_rounds_are_of_whole_programs_and_alike_for_all() -> None:
    body = Scripted()
    found = compare(body, talks(6), [FCFS, MLFQ], rounds=3)
    assert body.ran == [("fcfs", 0), ("mlfq", 0), ("mlfq", 1), ("fcfs", 1), ("fcfs", 2), ("mlfq", 2)]
    runs = {(run.label, run.number): run.programs for run in found.rounds}
    for number in range(3):
        one, other = runs["fcfs", number], runs["mlfq", number]
        assert one is not None and other is not None
        assert one["program"].tolist() == other["program"].tolist()
        assert one["turns"].tolist() == [3] * 6
    first, second = runs["fcfs", 0], runs["fcfs", 1]
    assert first is not None and second is not None and first["program"].tolist() != second["program"].tolist()
    document = found.document()
    assert (document["settings"]["sessions"], document["settings"]["rate"]) == (2, None)
    assert document["means"]["mlfq"]["programs_per_hour"] > 0
    assert document["program_ratios"]["mlfq"]["mean"] > 0
    said = " ".join(text(found).split())
    assert "programs" in said and "an hour" in said and "paired by program" in said


def test_without_sessions_nothing_is_said_of_programs() -> None:
    trace = Trace("plain", "", np.arange(4) * 10**7, np.full(4, 9), np.full(4, 3))

    class Plain(Scripted):
        def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
            return super().replay(contender, trace, seed, watch)._replace(notes={})

    document = compare(Plain(SessionSettings()), trace, [FCFS, MLFQ], rounds=1).document()
    assert "program_ratios" not in document and "sessions" not in document["settings"]
    assert "program_time_mean_s" not in document["means"]["fcfs"]


def test_no_ratio_where_others_were_completed() -> None:
    found = compare(Scripted(), talks(), [FCFS, PolicySpec("fcfs", label="short")], rounds=1)
    document = found.document()
    assert document["ratios"]["short"]["mean_jct_s"] is None
    assert document["program_ratios"]["short"] is None
    assert f"no ratios of short: {OTHER_PROGRAMS}" in found.warnings()
    assert "short: 3 of 3 programs abandoned" in " ".join(text(found).split())


def test_ctrl_c_keeps_the_whole_rounds() -> None:
    found = compare(Scripted(breaks=(4, KeyboardInterrupt())), talks(), [FCFS, MLFQ], rounds=3)
    assert found.interrupted
    assert [(run.label, run.number) for run in found.rounds] == [("fcfs", 0), ("mlfq", 0)]
    assert found.settings["rounds"] == 1
    with pytest.raises(KeyboardInterrupt):
        compare(Scripted(breaks=(2, KeyboardInterrupt())), talks(), [FCFS, MLFQ], rounds=3)


def test_a_run_that_fails_keeps_them_too() -> None:
    with pytest.raises(CompareError, match="mlfq, round 2: the server died") as raised:
        compare(Scripted(breaks=(3, CompareError("the server died"))), talks(), [FCFS, MLFQ], rounds=2)
    assert raised.value.found is not None and len(raised.value.found.rounds) == 2


def test_a_load_is_refused_for_there_is_no_rate() -> None:
    with pytest.raises(ValueError, match="there is no rate to set"):
        compare(Scripted(SessionSettings()), talks(), [FCFS], load=0.5)
    with pytest.raises(ValueError, match="sessions leaves these no say"):
        compare(Scripted(), talks(), [FCFS], rate=2.0)


def test_the_command_on_engines_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    trace, rows = tmp_path / "t.jsonl", tmp_path / "p.csv"
    write_trace(talks(2, 2), trace)
    engine = ["--backend", "scripted", "--latency", "opt-13b-a100", "--max-batch", "2"]
    words = ["--sessions", "1", "--rounds", "1", "--policy", "fcfs", "--policy", "mlfq", "--programs-csv", str(rows)]
    assert main(["ab", "--offline", "--json", "--trace", str(trace), *words, *engine]) == 0
    document = json.loads(capsys.readouterr().out)
    settings = Settings(sessions=1, prefix_cache="on", latency="opt-13b-a100", max_batch=2)
    run = run_one(talks(2, 2), FCFS, settings, 0)
    means = document["means"]["fcfs"]
    assert means["hit_rate"] == pytest.approx(run.summary["hit_rate"])
    assert means["hit_rate_unlimited"] == pytest.approx(run.summary["hit_rate_unlimited"])
    told = list(csv.DictReader(rows.read_text().splitlines()))
    assert [(row["label"], row["round"], row["program"]) for row in told] == [
        (label, "0", program) for label in ("fcfs", "mlfq") for program in ("talk 0", "talk 1")
    ]


@pytest.mark.parametrize("own_answers", [False, True])
def test_a_server_finds_what_the_simulator_finds(
    own_answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program at a time: prompt and answer of the turn before; with the recorded text its prompt alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = [sys.executable, str(Path(__file__).with_name("scripted_child.py"))]
    monkeypatch.setattr(subprocess_server, "COMMAND", child)
    body = HttpBody([], {"max_batch": 2}, coming=SessionSettings(sessions=1), own_answers=own_answers, start_s=60.0)
    trace = talks(2, 3)
    records, summary, notes = body.replay(FCFS, trace, 0, None)
    table = notes["programs"]
    run = run_one(trace, FCFS, Settings(sessions=1, prefix_cache="on"), 0)
    expected = run.records["cached_tokens"].tolist()
    assert expected == [0, 16, 48, 48, 80, 80]
    if own_answers:
        expected = [0, 16, 32, 32, 64, 64]
    assert records["cached_tokens"].tolist() == expected
    assert records["turn"].tolist() == [1, 1, 2, 2, 3, 3]
    assert records["prompt_tokens"].tolist() == trace.prompt.tolist()
    assert table["finish"].tolist() == ["completed"] * 2
    assert not [warning for warning in notes["warnings"] if "recorded text" in warning]
    assert summary["hit_rate"] == pytest.approx(sum(expected) / sum(trace.prompt.tolist()))
