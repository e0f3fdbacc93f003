"""One policy in the simulator, in a replay on an engine, behind `fastserve bench` and in `ab`: it is told the same."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")

from fastserve import predictors
from fastserve.__main__ import main
from fastserve.compare import subprocess_server
from fastserve.compare.compare import Contender
from fastserve.compare.http import HttpBody
from fastserve.compare.subprocess_server import ServerProcess
from fastserve.compare.trace import WARM
from fastserve.engine import Engine
from fastserve.engine.playback import play
from fastserve.sched.job import NEVER
from fastserve.workload import Trace, write_trace
from fastserve.workload.requests import requests_of
from sim.run import Contender as Simulated
from sim.run import run_one
from sim.settings import Settings

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
SLOS = ("ttft_slo", "tpot_slo", "e2e_slo")

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


def test_a_policy_is_told_the_same_everywhere(policy: str, tmp_path: Path) -> None:
    logs = {name: tmp_path / f"{name}.log" for name in ("simulated", "played", "bench", "ab")}
    knobs = {name: {"log": str(log)} for name, log in logs.items()}

    simulated = run_one(TRACE, Simulated(policy, knobs["simulated"]), Settings(predictor="oracle"), seed=0).records
    with Engine.scripted(policy=policy, knobs=knobs["played"], predictor="client", max_batch=2) as engine:
        played = play(engine, TRACE, predictor=predictors.make("oracle"))
    write_trace(TRACE, tmp_path / "t.jsonl")
    flags = ["--policy", policy, "--set", f"log={str(logs['bench'])!r}", "--predictor", "client"]
    with ServerProcess(flags, start_s=PATIENCE) as server:
        for api in ("native", "openai"):
            ask = ["bench", "--url", server.url, "--backend", api, "--trace", str(tmp_path / "t.jsonl"),
                   "--predictor", "oracle", "--timeout", str(PATIENCE)]  # fmt: skip
            assert main(ask) == 0
    contender = Contender(policy=policy, knobs=knobs["ab"])
    compared = HttpBody([], {"max_batch": 2}, start_s=PATIENCE).replay(contender, TRACE, 0, None).records

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
    for name in (*SLOS, "client", "program", "priority", "output_tokens"):
        for records in (played, compared):
            np.testing.assert_array_equal(records[name], simulated[name], err_msg=name)


def test_without_http_as_well(policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from fastserve.compare import offline

    def on_model(model: Any, serving: Any, **_: Any) -> Engine:
        return Engine.scripted(policy=serving.policy, knobs=serving.knobs, predictor=serving.predictor, max_batch=2)

    monkeypatch.setattr(offline, "on_model", on_model)
    log, simulated = tmp_path / "offline.log", tmp_path / "simulated.log"
    body = offline.EngineBody(SimpleNamespace(name="scripted"), {"max_batch": 2})  # type: ignore[arg-type]
    body.replay(Contender(policy=policy, knobs={"log": str(log)}), TRACE, 0, None)
    run_one(TRACE, Simulated(policy, {"log": str(simulated)}), Settings(predictor="oracle"), seed=0)
    assert read(log) == read(simulated)
