"""In which order parked KV leaves under MLFQ: the estimated next scheduled time, by hand and by the papers' formula."""

from __future__ import annotations

import random

import pytest

from fastserve.policies.mlfq import Mlfq
from fastserve.sched.job import Job
from tests.policies.desk import MS, Desk


def staged(
    alpha_ms: float, levels: list[int], waited_ms: list[float], eviction: str = "enst"
) -> tuple[Mlfq, list[Job]]:
    """Two slots, quanta of 10, 20, 40 and 80 ms. One job at each of these levels (0: the top), waiting for so long."""
    desk = Desk("mlfq", slots=2, levels=4, alpha=alpha_ms / 1000, eviction=eviction)
    policy = desk.policy
    assert isinstance(policy, Mlfq)
    jobs = [desk.come() for _ in levels]
    desk.now = policy.now = 1000 * MS
    for job, level, waited in zip(jobs, levels, waited_ms, strict=True):
        policy.enter(job, level)
        job.last = desk.now - round(waited * MS)
    return policy, jobs


def order(policy: Mlfq, *parked: Job) -> list[int]:
    return [job.id for job in policy.coldest(list(parked))]


@pytest.mark.parametrize(("promoted_in_ms", "first"), [(9.9, 2), (10.1, 3)])
def test_second_level_by_hand(promoted_in_ms: float, first: int) -> None:
    """Jobs 0, 1 at the top, 2 in the second level: it is executed in (10 + 10) / 2 = 10 ms.

    Job 3 in the fourth is promoted in 9.9 or 10.1 ms, whichever comes before its execution: the later one leaves first.
    """
    policy, jobs = staged(500, [0, 0, 1, 3], [0, 0, 0, 500 - promoted_in_ms])
    assert order(policy, jobs[2], jobs[3])[0] == first


@pytest.mark.parametrize(("promoted_in_ms", "first"), [(39.9, 3), (40.1, 4)])
def test_third_level_by_hand(promoted_in_ms: float, first: int) -> None:
    """Jobs 0, 1 at the top, 2 in the second level, 3 in the third: ((10 + 20) + (10 + 20) + 20) / 2 = 40 ms."""
    policy, jobs = staged(500, [0, 0, 1, 2, 3], [0, 0, 0, 0, 500 - promoted_in_ms])
    assert order(policy, jobs[3], jobs[4])[0] == first


def test_without_ageing_the_lowest_level_leaves_first_and_of_one_level_the_last() -> None:
    policy, jobs = staged(0, [0, 2, 1, 2, 3], [0, 900, 900, 900, 900])
    assert order(policy, *jobs) == [4, 3, 1, 2, 0]


def test_priority_order_heeds_no_promotion() -> None:
    """The artifact: lowest level first, its tail first, though the job there is promoted in 1 ms."""
    enst, jobs = staged(500, [0, 0, 1, 3], [0, 0, 0, 499])
    assert order(enst, jobs[2], jobs[3]) == [2, 3]
    priority, jobs = staged(500, [0, 0, 1, 3], [0, 0, 0, 499], eviction="priority")
    assert order(priority, jobs[2], jobs[3]) == [3, 2]


@pytest.mark.parametrize("seed", range(30))
def test_any_population_by_the_formula(seed: int) -> None:
    """ENST(i) = min(alpha - waited(i), 1/B * sum over j above i of sum over k = level(j) .. level(i) - 1 of q(k))."""
    rng = random.Random(seed)
    n = 12
    levels = [rng.randrange(4) for _ in range(n)]
    waited = [float(rng.randrange(200)) for _ in range(n)]
    policy, jobs = staged(200, levels, waited)
    quanta = [10, 20, 40, 80]

    def enst(i: int) -> float:
        execute = sum(sum(quanta[levels[j] : levels[i]]) for j in range(n)) / 2
        return execute if levels[i] == 0 else min(200 - waited[i], execute)

    times = [enst(job) for job in order(policy, *jobs)]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) >= 3
