"""Runs that are stopped early would have failed, and those that would meet their objective are never stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastserve.metrics.slo import Slo
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace, synthesise
from sim.capacity import Attainment, EarlyStop, Normalised
from sim.capacity import stop as module
from sim.run import run_one
from sim.settings import Settings


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at every few commits, so that a stop is as early as it can be and a wrong one is found."""
    monkeypatch.setattr(module, "EVERY", 20)


def attained(trace: Trace, policy: str, slo: Slo, **settings: Any) -> float:
    """Attainment of the whole run."""
    given = {"max_batch": 4, "slo": str(slo) or None} | settings
    found = run_one(trace, PolicySpec(policy), Settings(**given), seed=0).summary["slo_attainment"]
    assert found is not None
    return found


def watched(
    trace: Trace, policy: str, slo: Slo, attain: float, leave: bool = False, **settings: Any
) -> tuple[float | None, EarlyStop]:
    """Attainment of a run that may be stopped (None: it was), and who may stop it."""
    given = {"max_batch": 4, "slo": str(slo) or None} | settings
    stops: list[EarlyStop] = []

    def observe(run: Any) -> None:
        stops.append(EarlyStop(run, trace, Attainment(trace, slo, attain, leave), given.get("warmup", 0.0)))

    run = run_one(trace, PolicySpec(policy), Settings(**given), seed=0, observe=observe)
    (stop,) = stops
    return None if stop.stopped else run.summary["slo_attainment"], stop


@pytest.mark.parametrize("policy", ["fcfs", "sj-mlfq"])
@pytest.mark.parametrize(
    "slo", [Slo(ttft_s=1.0), Slo(tpot_s=0.08), Slo(e2e_s=20.0), Slo(1.0, 0.1, 30.0)], ids=["ttft", "tpot", "e2e", "all"]
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warmup": 10.0},
        {"batching": "mixed", "visit": 0},
        {"kv_tokens": 900, "host_tokens": 300},  # some are rejected, some truncated
        {"replicas": 2, "router": "round-robin"},
        {"speculate": "3:0.7"},
    ],
    ids=["plain", "warmup", "mixed", "small pool", "replicas", "speculating"],
)
def test_stopped_runs_would_have_failed(policy: str, slo: Slo, settings: dict[str, Any]) -> None:
    trace = synthesise(60, rate=1.6 * settings.get("replicas", 1), lengths="profile:sharegpt", seed=1)
    whole = attained(trace, policy, slo, **settings)
    for attain in (max(whole - 0.02, 0.01), max(whole, 0.01), min(whole + 1e-9, 1.0), min(whole + 0.1, 1.0)):
        short, stop = watched(trace, policy, slo, attain, **settings)
        assert stop.stopped <= (whole < attain), attain
        assert stop.stopped or short == whole


def test_what_is_stopped_is_stopped_well_before_its_end() -> None:
    trace = synthesise(150, rate=4.0, lengths="profile:sharegpt", seed=2)
    short, stop = watched(trace, "fcfs", Slo(ttft_s=1.0), 0.9)
    assert short is None
    assert np.count_nonzero(stop.seen.end >= 0) < 60


def test_what_is_missed_in_the_warm_up_does_not_count() -> None:
    """A burst at the start, whose requests are late, and then one request at a time."""
    trace = synthesise(60, rate=1.0, lengths="profile:sharegpt", seed=6)
    arrival = np.concatenate([np.zeros(40, np.int64), (600 + 40 * np.arange(20)) * 10**9])
    late = replace(trace, arrival=arrival)
    assert attained(late, "fcfs", Slo(ttft_s=1.0)) < 0.7
    assert watched(late, "fcfs", Slo(ttft_s=1.0), 0.9)[0] is None
    assert watched(late, "fcfs", Slo(ttft_s=1.0), 0.9, warmup=500.0)[0] == 1.0


def test_objectives_of_its_own_go_before_those_given() -> None:
    trace = synthesise(40, rate=0.2, lengths="profile:sharegpt", seed=0)
    strict = Slo(e2e_s=0.001)
    assert watched(trace, "fcfs", strict, 0.5)[0] is None
    own = replace(trace, e2e_slo=np.full(len(trace), 10**14))
    assert watched(own, "fcfs", strict, 0.5)[0] == 1.0


@pytest.mark.parametrize("attain", [0.2, 0.5, 0.8, 0.95])
def test_who_gives_up_is_in_no_figure(attain: float) -> None:
    """So that lateness of who may yet leave proves nothing."""
    trace = synthesise(80, rate=3.0, lengths="profile:sharegpt", seed=3)
    slo = Slo(ttft_s=2.0, e2e_s=20.0)
    whole = attained(trace, "fcfs", slo, client_timeout=4.0)
    short, stop = watched(trace, "fcfs", slo, attain, leave=True, client_timeout=4.0)
    assert stop.stopped <= (whole < attain)
    assert stop.stopped or short == whole
    assert np.count_nonzero(stop.seen.state == module.LEFT_OUT) > 0


def test_a_cluster_that_loses_replicas_is_not_stopped() -> None:
    trace = synthesise(60, rate=6.0, lengths="profile:sharegpt", seed=4)
    losing: dict[str, Any] = {"replicas": 2, "router": "round-robin", "fail": ("0@3:back@6",), "resend": "all"}
    whole = attained(trace, "fcfs", Slo(ttft_s=0.5), **losing)
    assert whole < 1
    assert watched(trace, "fcfs", Slo(ttft_s=0.5), 1.0, **losing)[0] == whole


def test_s_per_token_is_bounded_from_below() -> None:
    trace = synthesise(60, rate=2.0, lengths="profile:sharegpt", seed=5)
    mean = float(run_one(trace, PolicySpec("sj-mlfq"), Settings(max_batch=4), 0).summary["mean_s_per_token"] or 0)
    for limit, fails in ((mean * 1.001, False), (mean * 0.8, True)):
        stops: list[EarlyStop] = []

        def observe(run: Any, limit: float = limit, stops: list[EarlyStop] = stops) -> None:
            stops.append(EarlyStop(run, trace, Normalised([np.mean], limit)))

        run_one(trace, PolicySpec("sj-mlfq"), Settings(max_batch=4), 0, observe=observe)
        assert stops[0].stopped == fails
