"""What a trace tells and a policy does not look at is said, in tables and comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sim
from fastserve.policies import POLICIES
from fastserve.policies.in_words import fact_lines
from fastserve.policies.reads import FACTS, facts_read
from fastserve.policies.spec import PolicySpec, facts_told
from fastserve.workload import Trace

BUILT_IN = {"priority": {"priority"}, "sjf": {"guess"}, "srpt": {"guess"}}

SOURCE = """
from operator import attrgetter

from fastserve import Policy
from beside_of_test_reads import weight

urgent = attrgetter("priority")

class Own(Policy):
    def rank(self, job):
        return urgent(job), weight(job), job.arrival

class Below(Own):
    pass

def factory():
    return Own()
"""


DUE = """
from fastserve import Policy

class Due(Policy):
    def rank(self, job):
        return getattr(job, "deadline", 0)
"""


def trace(**columns: object) -> Trace:
    ones = np.ones(3, np.int64)
    return Trace("three", "made", np.arange(3), ones, ones, **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", POLICIES)
def test_the_built_in_ones(name: str) -> None:
    assert facts_read(POLICIES[name]) == BUILT_IN.get(name, set())


def test_ones_own_with_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside_of_test_reads.py").write_text("def weight(job):\n    return len(job.client)\n")
    (tmp_path / "own.py").write_text(SOURCE)
    for name in ("Own", "Below"):
        assert facts_read(PolicySpec(f"{tmp_path}/own.py:{name}").kind) == {"priority", "client"}
    import importlib

    assert facts_read(importlib.import_module("own").factory) == {"priority", "client"}


def test_without_a_source_nothing_is_claimed() -> None:
    typed: dict[str, object] = {"__name__": "typed_in"}
    exec("from fastserve import Policy\nclass Typed(Policy):\n    def rank(self, job): return 0", typed)
    kind = typed["Typed"]
    assert isinstance(kind, type)
    assert facts_read(kind) is None
    assert facts_told([PolicySpec(kind)], ["typed"], ["priority"]) == {}


def test_what_a_trace_tells(tmp_path: Path) -> None:
    assert trace().facts == []
    assert trace(client=["a", "a", "a"], priority=np.zeros(3, np.int64), guess=np.zeros(3, np.int64)).facts == []
    full = trace(client=["a", "", "b"], priority=np.array([0, 0, 1]), guess=np.array([0, 7, 0]),
                 e2e_slo=np.array([10**9] * 3))  # fmt: skip
    assert sorted(full.facts) == sorted(FACTS)
    (tmp_path / "due.py").write_text(DUE)
    specs = [PolicySpec("fcfs"), PolicySpec("priority"), PolicySpec("srpt"), PolicySpec(f"{tmp_path}/due.py:Due")]
    assert fact_lines(facts_told(specs, ["fcfs", "priority", "srpt", "due"], full.facts)) == [
        "columns of the trace that are not used: client by fcfs, priority, srpt, due; priority by fcfs, srpt, due; "
        "slo by fcfs, priority, srpt; guess by fcfs, priority, due"
    ]


def test_a_table_says_it_once() -> None:
    urgent = trace(priority=np.array([5, 5, 0]))
    found = str(sim.replay(urgent, policy=["fcfs", "priority", "srpt"], progress=False))
    assert found.count("columns of the trace that are not used: priority by fcfs, srpt (oracle)") == 1
    assert "not used" not in str(sim.replay(urgent, policy="priority", progress=False))
    assert "not used" not in str(sim.replay(trace(), policy="fcfs", progress=False))


def test_what_the_trace_lacks_is_said_too() -> None:
    same = trace(priority=np.array([5, 5, 5]))
    found = str(sim.replay(same, policy=["fcfs", "priority"], progress=False))
    assert "not in the trace, or alike for all: priority, which priority would go by" in found
    assert "not in the trace" not in str(sim.replay(trace(), policy=["fcfs", "srpt"], progress=False))
