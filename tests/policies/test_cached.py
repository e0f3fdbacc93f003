"""lpm and cachewise: who waits is ordered by what it would find in the prefix cache."""

from __future__ import annotations

import pytest

from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome
from tests.policies.desk import MS, Desk


def desk(policy: str, blocks: int = 100, **knobs: object) -> Desk:
    """Units of 16 tokens; 1 and 2 are in the cache, 32 tokens."""
    there = Desk(policy, 1, {"prefix_cache": "on", "device_blocks": blocks, "residency": "recompute"}, **knobs)
    first = there.come(40, ids=(1, 2))
    there.run(1, first)
    return there


def served(there: Desk, *jobs: Job) -> list[int]:
    """Each runs for one iteration and ends. Returns their ids in that order."""
    order = []
    for _ in jobs:
        (job,) = there.run(1)
        there.run(1, job)
        order.append(job.id)
    return order


def three(there: Desk) -> list[Job]:
    """Behind one that runs: 20 tokens that nobody knows, 100 of which 32 are cached, 30 of which 16 are."""
    runs = there.come(500)
    assert there.run(1) == [runs]
    return [runs, there.come(20, ids=(9,)), there.come(100, ids=(1, 2, 3, 4, 5, 6)), there.come(30, ids=(1,))]


def test_lpm_takes_the_longest_cached_prefix() -> None:
    there = desk("lpm")
    runs, *waiting = three(there)
    assert [job.cached for job in waiting] == [0, 32, 16]
    assert there.policy.explain(waiting[1]) == "32 of 100 tokens cached"
    there.run(1, runs)
    assert served(there, *waiting) == [3, 4, 2]


def test_cachewise_takes_the_fewest_new_tokens() -> None:
    there = desk("cachewise")
    runs, *waiting = three(there)
    assert there.policy.explain(waiting[1]) == "68 tokens to compute"
    there.run(1, runs)
    assert served(there, *waiting) == [4, 2, 3], "14, 20 and 68 tokens"


@pytest.mark.parametrize("policy", ["lpm", "cachewise"])
def test_nobody_is_displaced(policy: str) -> None:
    there = desk(policy)
    runs = there.come(500)
    there.run(1)
    there.come(32, ids=(1, 2))
    assert [there.run(1) for _ in range(5)] == [[runs]] * 5


def test_the_order_follows_the_cache() -> None:
    """What the one that runs computes is found by who waits for it, and then goes before an older one."""
    there = desk("lpm")
    runs = there.come(64, ids=(5, 6, 7, 8))
    there.run(1)
    older, same = there.come(40, ids=(1, 2)), there.come(64, ids=(5, 6, 7, 8))
    there.run(1, runs)
    assert served(there, older, same) == [same.id, older.id]


def test_a_long_queue_is_first_come_first_served() -> None:
    there = desk("lpm", most=2)
    runs, *waiting = three(there)
    there.run(1, runs)
    assert served(there, *waiting) == [2, 3, 4], "three wait, and then the two that are left go by what is cached"


def test_without_a_cache_lpm_is_first_come_first_served_and_cachewise_shortest_prompt_first() -> None:
    for policy, order in (("lpm", [1, 2, 3]), ("cachewise", [3, 1, 2])):
        there = Desk(policy)
        runs = there.come(5)
        there.run(1)
        waiting = [there.come(30), there.come(40), there.come(20)]
        there.run(1, runs)
        assert served(there, *waiting) == order


def tool_turn(there: Desk, program: str, first: int, calls: str, ms: int) -> None:
    """A turn of 32 tokens with units of its own, whose answer calls a tool; then so many ms pass."""
    job = there.come(32, program=program, ids=(first, first + 1))
    plan = there.scheduler.plan(there.now)
    assert plan is not None
    there.now += MS
    there.scheduler.commit(plan, Outcome(1, MS, ended=(job,), calls={job: calls}), there.now)
    there.now += ms * MS


def test_cachewise_forgets_first_who_is_expected_back_last_and_before_it_who_waits_for_a_person() -> None:
    """Three contexts of two units lie idle in a pool of eight blocks; 70 tokens more take five of them."""
    there = desk("cachewise", blocks=8)
    for tool, ms in (("slow", 9000), ("slow", 9000), ("quick", 10), ("quick", 10)):
        tool_turn(there, "teacher", 50, tool, ms)
    there.scheduler.end_program("teacher", there.now)
    for program, first, tool in (("slow", 10, "slow"), ("quick", 20, "quick"), ("person", 30, "")):
        tool_turn(there, program, first, tool, 0)
    there.run(1, there.come(70))
    found = {first: there.come(40, ids=(first, first + 1)).cached for first in (10, 20, 30)}
    assert found == {10: 16, 20: 32, 30: 0}
