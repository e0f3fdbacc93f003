"""Replicas that fail, drain and come back: nothing is lost, nothing is served twice, and the router hears of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from fastserve.metrics.finish import OUTCOMES, is_outcome
from fastserve.policies.spec import PolicySpec
from fastserve.routers import Router
from fastserve.routers.spec import RouterSpec
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job
from fastserve.workload import Trace
from sim.report.run import Run
from sim.run import run_one
from sim.settings import Settings
from tests.sim.cluster.cases import case

SECOND = '{"kind": "linear", "name": "second", "prefill_ms": 1000, "decode_ms": 1000}'


def test_every_job_ends_in_exactly_one_way(tmp_path: Path) -> None:
    counts: dict[str, int] = dict.fromkeys(["resent", "error", "rejected"], 0)
    for seed in range(5000, 5120):
        trace, spec, settings = case(random.Random(seed), tmp_path)
        run = run_one(trace, spec, settings, seed)
        records, summary = run.records, run.summary
        ids = records["id"].tolist()
        never = int(summary["abandoned_requests"] or 0)
        assert ids == sorted(set(ids)) and len(ids) + never == len(trace), seed
        ways = [int(is_outcome(records["finish"], outcome).sum()) for outcome in OUTCOMES]
        assert sum(ways) == len(ids) and [summary[outcome] for outcome in OUTCOMES] == ways, seed
        assert "unfinished" not in records["finish"], seed
        done = is_outcome(records["finish"], "completed")
        assert (records["output_tokens"][done] == trace.output[records["id"]][done]).all(), seed
        where = records["replica"]
        assert (records["finish"][where < 0] == "rejected").all(), seed
        assert run.replicas is not None and run.replicas["requests"].sum() == int((where >= 0).sum()), seed
        assert summary["resent"] == int((records["resent"] > 0).sum()), seed
        if not settings.fail:
            assert not records["resent"].any() and "error" not in records["finish"], seed
        if settings.resend == "all":
            assert "error" not in records["finish"], seed
        counts["resent"] += int(summary["resent"] or 0)
        for word in ("error", "rejected"):
            counts[word] += int((records["finish"] == word).sum())
    assert min(counts.values()) > 5, counts


class First(Router):
    """The first that may be chosen."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        self.told.append(("route", job.id, [view.replica for view in views]))
        return 0

    def failed(self, job: Job, replica: int, now: int) -> None:
        self.told.append(("failed", job.id, replica, now))

    def ended(self, job: Job, replica: int, now: int, tokens: int) -> None:
        self.told.append(("ended", job.id, replica, now, tokens))

    def lost(self, replica: int, now: int) -> None:
        self.told.append(("lost", replica, now))

    def came(self, replica: int, name: str, weight: float, now: int) -> None:
        self.told.append(("came", replica, name, weight, now))


def run(tmp_path: Path, arrivals: list[float], outputs: list[int], **how: Any) -> tuple[Run, list[tuple[Any, ...]]]:
    """On machines where each iteration takes a second, one job at a time."""
    path = tmp_path / "second.json"
    path.write_text(SECOND)
    n = len(arrivals)
    times = np.array([round(at * 1e9) for at in arrivals], np.int64)
    trace = Trace("by hand", "made", times, np.ones(n, np.int64), np.array(outputs, np.int64))
    made: list[First] = []

    def router() -> First:
        made.append(First())
        return made[-1]

    settings = Settings(latency=str(path), max_batch=1, visit=0, router=RouterSpec(router), **how)
    found = run_one(trace, PolicySpec("fcfs"), settings, 0)
    return found, made[-1].told


def test_a_replica_fails_by_hand(tmp_path: Path) -> None:
    """Job 0 runs there and has had two tokens by 2.5 s, job 1 waits. Job 1 goes to the other at once; job 2 comes at
    4 s, when replica 0 is back, and is sent there, as it was before."""
    found, told = run(tmp_path, [0, 0.5, 4], [9, 2, 1], replicas=2, fail="0@2.5:back@3.5")
    records = found.records
    assert records["finish"].tolist() == ["error", "stop", "stop"]
    assert records["output_tokens"].tolist() == [2, 2, 1]
    assert records["end"].tolist() == [2.5, 4.5, 5.0]
    assert records["replica"].tolist() == [0, 1, 0]
    assert records["resent"].tolist() == [0, 1, 0]
    assert records["queued"].tolist() == [0, 2.0, 0]
    s = 1_000_000_000
    assert told == [
        ("route", 0, [0, 1]), ("route", 1, [0, 1]), ("failed", 0, 0, 5 * s // 2), ("failed", 1, 0, 5 * s // 2),
        ("lost", 0, 5 * s // 2), ("route", 1, [1]), ("came", 0, "r0", 1.0, 7 * s // 2), ("route", 2, [0, 1]),
        ("ended", 1, 1, 9 * s // 2, 2), ("ended", 2, 0, 5 * s, 1),
    ]  # fmt: skip


def test_all_may_be_sent_again(tmp_path: Path) -> None:
    found, _ = run(tmp_path, [0, 0.5], [9, 2], replicas=2, fail="0@2.5", resend="all")
    assert found.records["finish"].tolist() == ["stop", "stop"]
    assert found.records["end"].tolist() == [11.5, 13.5]
    assert found.records["resent"].tolist() == [1, 1] and found.summary["lost_tokens"] == 2


def test_a_drained_one_finishes_what_it_has(tmp_path: Path) -> None:
    """It is to be back at 2 s, and is when its two jobs have ended, at 6 s: with empty caches, as the router hears."""
    found, told = run(tmp_path, [0, 0, 1.5, 5, 7], [4, 2, 1, 1, 1], replicas=2, drain="0@1:back@2")
    assert found.records["replica"].tolist() == [0, 0, 1, 1, 0]
    assert found.records["finish"].tolist() == ["stop"] * 5
    back = [one for one in told if one[0] in ("lost", "came")]
    assert back == [("lost", 0, 6_000_000_000), ("came", 0, "r0", 1.0, 6_000_000_000)]


def test_where_nobody_is_left_requests_are_refused(tmp_path: Path) -> None:
    found, _ = run(tmp_path, [0, 1, 3], [1, 5, 1], fail="0@1.5:back@2.5")
    assert found.records["finish"].tolist() == ["stop", "rejected", "stop"]
    assert found.records["replica"].tolist() == [0, -1, 0]


def test_a_token_that_comes_with_the_failure_has_come(tmp_path: Path) -> None:
    """The iteration that ends just then is over; the one under way is lost."""
    found, _ = run(tmp_path, [0], [9], fail="0@3")
    assert found.records["output_tokens"].tolist() == [3] and found.records["finish"].tolist() == ["error"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"fail": "0"}, "give REPLICA@SECONDS"),
        ({"fail": "0@5:back@4"}, "the second one later"),
        ({"fail": "3@5"}, "there are replicas 0 to 1"),
        ({"fail": ("0@5", "0@6")}, "replica 0 is away since its fail"),
        ({"resend": "some"}, "must be one of unstarted, all"),
        ({"replica": "weight=0"}, "must be a number above 0"),
        ({"replica": "wait=3"}, "'wait' is none of weight, name, latency"),
        ({"replica": ("name=a", "name=a")}, "different names"),
        ({"replica": ("weight=2",) * 3}, "3 are described"),
        ({"view_delay": -1.0}, "view_delay"),
    ],
)
def test_what_cannot_be_is_told(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sim.Settings(**{"replicas": 2, **how})
