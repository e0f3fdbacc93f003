"""What an Outcome may say of an uneven iteration, and what the Scheduler then knows."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.sched.errors import RefusedError
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome
from fastserve.sched.policy import Policy
from tests.policies.desk import MS, Desk
from tests.sched.audit import audit


class Bell(Policy):
    """First come, first served, with an alarm after so many tokens."""

    settled = True

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.rung: list[tuple[int, int]] = []

    def rank(self, job: Job) -> tuple[int, int]:
        return job.arrival, job.id

    def arrive(self, job: Job) -> None:
        self.wake(job, tokens=self.tokens)

    def alarm(self, job: Job, why: str) -> None:
        assert why == "tokens"
        self.rung.append((self.now // MS, job.generated))


class Urgent(Policy):
    settled = True

    def rank(self, job: Job) -> int:
        return job.priority


def desk(policy: str | Policy = "fcfs", slots: int = 2, **options: Any) -> Desk:
    return Desk(policy, slots, options)


def test_a_job_may_get_several_tokens_or_none() -> None:
    d = desk(lookahead=4, device_blocks=100, block_tokens=2)
    a, b = d.come(prompt=4), d.come(prompt=3)
    d.run(10, extra=[(a, 4), (b, -1)])  # both end their prefill
    assert (a.generated, b.generated) == (5, 0)
    assert (a.fresh, b.fresh) == (False, True)
    d.run(10, extra=[(b, -1)])
    assert (a.generated, b.generated) == (6, 0)
    d.run(10, extra=[(a, -1), (b, 2)])
    assert (a.generated, b.generated) == (6, 3)
    assert not b.fresh
    assert (a.blocks, b.blocks) == (7, 5)  # of prompt + generated + lookahead tokens
    audit(d.scheduler)
    d.run(10, a, extra=[(a, -1)])
    assert (a.generated, a.finish) == (6, "stop")
    audit(d.scheduler)


def test_a_tokens_alarm_rings_once_where_it_falls_due_however_far_it_overshot() -> None:
    bell = Bell(tokens=4)
    d = desk(bell, lookahead=4)
    job = d.come()
    d.run(10)
    d.run(10, extra=[(job, -1)])
    d.run(10, extra=[(job, 1)])
    assert bell.rung == []
    d.run(10, extra=[(job, 4)])
    d.run(10)
    assert bell.rung == [(40, 8)]


def test_who_got_no_token_keeps_its_place() -> None:
    d = desk(Urgent(), slots=1, lookahead=1)
    job = d.come(priority=1)
    d.run(10, extra=[(job, -1)])
    urgent = d.come(priority=0)
    assert d.run(10, extra=[(job, -1)]) == [job]
    assert d.run(10, extra=[(job, 1)]) == [job]
    assert d.run(10) == [urgent]
    assert (job.generated, job.preemptions) == (2, 1)


def test_blocks_for_the_lookahead_are_reserved() -> None:
    d = desk("fcfs", slots=2, lookahead=3, device_blocks=4, block_tokens=4)
    with pytest.raises(RefusedError, match="a prompt of 14 tokens and a lookahead of 3 needs 5 KV blocks of 4"):
        d.come(prompt=14)
    first, second = d.come(prompt=5), d.come(prompt=6)  # two blocks, three
    assert d.run(10) == [first]
    assert d.scheduler.ledger.used == 3  # 6 tokens and 3
    d.run(10, extra=[(first, 3)])
    assert d.scheduler.ledger.used == 4
    d.run(10, extra=[(first, 3)])  # 14 tokens and 3 would need 5
    assert (first.finish, first.generated) == ("truncated", 9)
    assert d.run(10) == [second]


def test_the_whole_context_is_reserved_with_the_lookahead() -> None:
    d = desk("fcfs", whole_context=True, lookahead=2, device_blocks=6, block_tokens=4)
    job = d.come(prompt=4, limit=10)
    d.run(10, extra=[(job, 2)])
    assert d.scheduler.ledger.used == 4
    d.run(10, extra=[(job, 2)])
    assert d.scheduler.ledger.used == 4
    audit(d.scheduler)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([(0, 3)], "job 0 got 4 tokens from one iteration, and blocks are reserved for 3; set lookahead to 3 or more"),
        ([(0, -2)], r"takes tokens away from job 0 \(-2\); the least is -1"),
        ([(0, 1), (0, 1)], "names job 0 twice"),
        ([(1, 0)], "names job 1, which neither decodes nor ends its prefill in this plan"),
        ([(2, -1)], "names job 2, which neither decodes nor ends its prefill in this plan"),
        ([(0, 2)], "job 0 got 3 tokens and would have 4 of at most 3; a body ends a job at its limit"),
    ],
)
def test_what_extra_must_not_say(extra: list[tuple[int, int]], message: str) -> None:
    """Nothing has changed then. Job 0 decodes, job 1 is in the middle of its prefill, job 2 waits."""
    d = desk(batching="chunked", token_budget=4, lookahead=2)
    jobs = [d.come(prompt=2, limit=3)]
    d.run(10)
    jobs += [d.come(prompt=9), d.come()]
    plan = d.scheduler.plan(d.now)
    assert plan is not None
    assert plan.batch == 1
    named = [(jobs[id], delta) for id, delta in extra]
    with pytest.raises(ValueError, match=message):
        d.scheduler.commit(plan, Outcome(1, 10 * MS, extra=named), d.now + 10 * MS)
    audit(d.scheduler)
    assert [job.generated for job in jobs] == [1, 0, 0]
    d.scheduler.commit(plan, Outcome(1, 10 * MS, extra=[(jobs[0], 1)], ended=[jobs[0]]), d.now + 10 * MS)
    assert (jobs[0].generated, jobs[0].finish) == (3, "stop")


def test_who_leaves_or_idles_gets_no_token() -> None:
    d = desk(Urgent(), slots=1, lookahead=2)
    out = d.come(priority=1)
    d.run(10)
    d.come(priority=0)
    plan = d.scheduler.plan(d.now)
    assert plan is not None
    assert plan.left == [out]
    with pytest.raises(ValueError, match="names job 0, which neither"):
        d.scheduler.commit(plan, Outcome(1, 10 * MS, extra=[(out, 1)]), d.now + 10 * MS)

    d = desk(slots=2, batching="prefill-first", token_budget=100, lookahead=2)
    idle = d.come()
    d.run(10)
    d.come()
    plan = d.scheduler.plan(d.now)
    assert plan is not None
    assert plan.batch == 0
    with pytest.raises(ValueError, match="names job 0, which neither"):
        d.scheduler.commit(plan, Outcome(1, 10 * MS, extra=[(idle, -1)]), d.now + 10 * MS)


def test_only_after_a_single_iteration() -> None:
    d = desk(lookahead=2)
    job = d.come()
    d.run(10)
    plan = d.scheduler.plan(d.now)
    assert plan is not None
    assert plan.iterations > 1
    with pytest.raises(ValueError, match=r"2 iterations at once, and `extra` tells .* come back after each iteration"):
        d.scheduler.commit(plan, Outcome(2, 20 * MS, extra=[(job, 1)]), d.now + 20 * MS)
    d.scheduler.commit(plan, Outcome(1, 10 * MS, extra=[(job, 1)]), d.now + 10 * MS)
    assert job.generated == 3
