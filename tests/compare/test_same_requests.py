"""One policy in the simulator, in a replay on an engine, behind `fastserve bench` and in `ab`: it is told the same."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")

from fastserve import predictors
from fastserve.__main__ import main
from fastserve.bench import FORMATS, HttpApi, IdPrompts, RequestOptions, calls_of
from fastserve.bench.event_loop import on_best_loop
from fastserve.compare import http, subprocess_server
from fastserve.compare.subprocess_server import ServerProcess
from fastserve.compare.trace import WARM
from fastserve.engine import Engine
from fastserve.engine.playback import play
from fastserve.metrics.records import Columns
from fastserve.sched.job import NEVER
from fastserve.workload import Trace, write_trace
from fastserve.workload.requests import requests_of
from sim import replay

PATIENCE = 60.0
POLICY = """
import json
from fastserve import Policy


class Edf(Policy):
    needs = frozenset({"guess"})

    def __init__(self, log):
        self.log = log

    def rank(self, job):
        return job.deadline

    def arrive(self, job):
        told = [job.program, job.arrival, job.deadline, job.client, job.priority, job.limit, job.guess, job.prompt]
        with open(self.log, "a") as file:
            print(json.dumps(told), file=file)
"""
MS = 1_000_000
TRACE = Trace(
    "promised", "made here",
    arrival=np.array([0, 7, 40, 41, 60, 90]) * MS + np.array([0, 1, 0, 3, 5, 7]),
    prompt=np.array([4, 9, 5, 7, 12, 6]),
    output=np.array([3, 8, 2, 5, 4, 6]),
    client=["ann", "bob", "ann", "eve", "bob", "ann"],
    program=["p0", "p1", "p2", "p3", "p4", "p5"],
    priority=np.array([0, -3, 2, 0, 1, 7]),
    ttft_slo=np.array([0, 123_456_789, 0, 70 * MS, 0, 90 * MS]),
    tpot_slo=np.array([0, 0, 0, 5 * MS, 0, 0]),
    e2e_slo=np.array([0, 0, 2_345_678_901, 800 * MS, 17, 0]),
    max_tokens=np.array([0, 0, 20, 0, 3, 0]),
)  # fmt: skip

Told = dict[str, list[Any]]
"""Program -> arrival (ns after the first), deadline (ns after the arrival), client, priority, limit, guess, prompt."""


def read(log: Path, which: slice = slice(None)) -> Told:
    rows = [json.loads(line) for line in log.read_text().splitlines()][which]
    assert len(rows) == len(TRACE)
    first = min(row[1] for row in rows)
    return {
        program: [arrival - first, deadline if deadline == NEVER else deadline - arrival, *rest]
        for program, arrival, deadline, *rest in rows
    }


def but_arrivals(told: Told) -> Told:
    """HTTP takes its time: there a request arrives when it arrives."""
    return {program: row[1:] for program, row in told.items()}


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "edf_that_notes.py").write_text(POLICY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # logs of servers stay here
    child = [sys.executable, str(Path(__file__).with_name("scripted_child.py"))]
    monkeypatch.setattr(subprocess_server, "COMMAND", child)
    return "edf_that_notes:Edf"


def simulate(log: Path) -> Columns:
    from edf_that_notes import Edf  # type: ignore[import-not-found]

    here: Any = type("Here", (Edf,), {"__init__": lambda self: Edf.__init__(self, str(log))})
    return replay(TRACE, here, predictor="oracle", processes=1).runs[0].records


def ab(policy: str, log: Path, trace: Path, *flags: str) -> None:
    given = [
        "--policy",
        policy,
        "--set",
        f"log={str(log)!r}",
        "--trace",
        str(trace),
        "--rounds",
        "1",
        "--max-batch",
        "2",
    ]
    assert main(["ab", *given, *flags]) == 0


def test_a_policy_is_told_the_same_everywhere(policy: str, tmp_path: Path) -> None:
    logs = {name: tmp_path / f"{name}.log" for name in ("simulated", "played", "bench", "ab")}
    write_trace(TRACE, tmp_path / "t.jsonl")
    simulated = simulate(logs["simulated"])
    knobs = {"log": str(logs["played"])}
    with Engine.scripted(policy=policy, knobs=knobs, predictor="client", max_batch=2) as engine:
        played = play(engine, TRACE, predictor=predictors.make("oracle"))
    flags = ["--policy", policy, "--set", f"log={str(logs['bench'])!r}", "--predictor", "client"]
    with ServerProcess(flags, start_s=PATIENCE) as server:
        for route in ("native", "openai"):
            calls = calls_of(TRACE, IdPrompts(40, 90), predictor=predictors.make("oracle"))
            options = RequestOptions(hide_lengths=True, ignore_eos=True, own=True)
            sent, _ = on_best_loop(http._watched(calls, HttpApi(server.url, FORMATS[route](options)), None))
            assert not [sample.reply.error for sample in sent.samples if not sample.reply.completed]
    ab(policy, logs["ab"], tmp_path / "t.jsonl")

    expected = read(logs["simulated"])
    assert expected == {
        request.program: [
            request.arrival, request.deadline if request.deadline == NEVER else request.deadline - request.arrival,
            request.client, request.priority, request.limit, request.output, request.prompt,
        ]
        for request in requests_of(TRACE)
    }  # fmt: skip
    assert [row[1] for row in expected.values()] == [NEVER, 123_456_789, 2_345_678_901, 800 * MS, 17, 90 * MS]
    assert [row[4] for row in expected.values()] == [8, 8, 20, 8, 3, 8]
    assert read(logs["played"]) == expected  # to the ns, arrivals as well
    n = len(TRACE)
    for name, rows in (("bench", slice(n)), ("bench", slice(n, None)), ("ab", slice(WARM, None))):
        assert but_arrivals(read(logs[name], rows)) == but_arrivals(expected), name
    for name in ("ttft_slo", "tpot_slo", "e2e_slo", "client", "program", "priority", "output_tokens"):
        for records in (played, sent.columns()):
            np.testing.assert_array_equal(records[name], simulated[name], err_msg=name)


def test_ab_without_http_as_well(policy: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_trace(TRACE, tmp_path / "t.jsonl")
    simulate(tmp_path / "simulated.log")
    ab(policy, tmp_path / "ab.log", tmp_path / "t.jsonl", "--offline", "--latency", "opt-13b-a100")
    assert read(tmp_path / "ab.log") == read(tmp_path / "simulated.log")
