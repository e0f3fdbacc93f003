"""One replica under any router is the single machine: bit for bit its records, and its measures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.policies import POLICIES
from fastserve.policies.spec import PolicySpec
from fastserve.routers import ROUTERS
from fastserve.sched.plan import Outcome, Plan
from fastserve.workload import read_trace
from sim.cluster.replica import Replica
from sim.cluster.settings import ALONE
from sim.report.run import Run
from sim.run import run_one
from sim.settings import Settings
from tests.sim.cluster.cases import case

TRACES = Path(__file__).parents[3] / "traces"
AGENTS, CONVERSATIONS = TRACES / "agents-like.jsonl", TRACES / "azure-conv-like.jsonl"


def alike(single: Run, cluster: Run, plans: bool = True) -> None:
    for name, values in single.records.items():
        assert np.array_equal(values, cluster.records[name], equal_nan=values.dtype.kind == "f"), name
    assert not cluster.records["resent"].any()
    for name, value in single.summary.items():
        if plans or name not in ("plans", "scheduling_events"):
            assert cluster.summary[name] == value, name
    assert (single.programs is None) == (cluster.programs is None)
    for name, values in (single.programs or {}).items():
        assert cluster.programs is not None
        assert np.array_equal(values, cluster.programs[name], equal_nan=values.dtype.kind == "f"), name


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_under_every_policy(policy: str) -> None:
    """Its plans too: a router that looks at nothing leaves a replica's plans as long as they are."""
    settings = Settings(rate=2.2, max_batch=12, host_tokens=20_000, kv_tokens=20_000)
    trace = read_trace(CONVERSATIONS).head(150)
    one = run_one(trace, PolicySpec(policy), settings, 1)
    alike(one, run_one(trace, PolicySpec(policy), settings.with_(router="round-robin"), 1))


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_under_every_router(router: str) -> None:
    trace = read_trace(AGENTS).head(120)
    settings = Settings(sessions=6, kv_tokens=60_000, client_timeout=40.0)
    for how in ({}, {"speculate": "3:0.6"}, {"prefix_cache": "off"}):
        one = run_one(trace, PolicySpec("plas"), settings.with_(**how), 2)
        alike(one, run_one(trace, PolicySpec("plas"), settings.with_(router=router, **how), 2), plans=False)
    assert one.summary["iterations"]


def test_a_stretch_that_is_cut_short_has_its_copies_under_way_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies out ended with the stretch as it was first run, and with the shorter one they have not."""
    seen = []
    usual = Replica._again

    def again(replica: Replica, plan: Plan, outcome: Outcome, at: int) -> None:
        usual(replica, plan, outcome, at)
        new = replica.outcome
        seen.append(bool(outcome.copied) and new is not None and len(new.copied) < len(outcome.copied))

    monkeypatch.setattr(Replica, "_again", again)
    settings = Settings(
        max_batch=16, kv_tokens=9000, host_tokens=60_000, visit=0, residency="proactive", link_gb_s=2.0
    )  # fmt: skip
    trace = read_trace(CONVERSATIONS).head(120)
    one = run_one(trace, PolicySpec("srpt"), settings, 0)
    alike(one, run_one(trace, PolicySpec("srpt"), settings.with_(router="round-robin"), 0))
    assert any(seen)


@pytest.mark.parametrize("block", range(3))
def test_over_random_runs(block: int, tmp_path: Path) -> None:
    """Whatever the batching, residency, sessions and guesses, with patience, on a grid of times and off it."""
    for seed in range(15 * block, 15 * block + 15):
        trace, spec, settings = case(random.Random(seed), tmp_path, faults=False)
        alone: dict[str, Any] = dict(ALONE)
        for policy in (spec, PolicySpec("mlfq")):
            one = run_one(trace, policy, settings.with_(**alone), seed)
            alike(one, run_one(trace, policy, settings.with_(**alone | {"router": "least-connections"}), seed))
