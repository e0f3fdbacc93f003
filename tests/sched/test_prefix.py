"""What a plan says where prefixes are cached, and what a policy may read of it. Whole runs are in test_sharing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from fastserve.sched.config import SchedulerConfig
from fastserve.sched.errors import RefusedError
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome
from fastserve.sched.prefix import PrefixScheduler
from fastserve.sched.sharing import SharedLedger
from tests.policies.desk import Desk
from tests.sched.audit import audit


class Said(NamedTuple):
    """Of a plan: who prefills from which token how many, tokens found by job, ids of the units that go in order."""

    prefill: list[tuple[Job, int, int]]
    found: dict[Job, int]
    evict: list[int]


def desk(blocks: int = 10, **options: object) -> Desk:
    shape = {"prefix_cache": "on", "device_blocks": blocks, "residency": "recompute"}
    return Desk("fcfs", 4, shape | options)


def step(desk: Desk, *ended: Job, answers: Mapping[Job, Sequence[int]] | None = None) -> Said:
    """One iteration, in which these jobs end."""
    scheduler = desk.scheduler
    plan = scheduler.plan(desk.now)
    assert plan is not None
    said = Said(
        [(job, plan.first(job), tokens) for job, tokens in plan.prefill],
        dict(plan.found),
        [id for ids, start, end in plan.evict for id in reversed(ids[start:end])],
    )
    desk.now += 1000
    scheduler.commit(plan, Outcome(1, 1000, ended=ended, answers=answers), desk.now)
    audit(scheduler)
    return said


def idle(desk: Desk) -> list[int]:
    ledger = desk.scheduler.ledger
    assert isinstance(ledger, SharedLedger)
    return ledger.tree.idle_ids()


def test_who_comes_later_finds_what_was_computed_and_computes_the_rest() -> None:
    there = desk()
    first = there.come(40, ids=(1, 2))
    assert step(there) == Said([(first, 0, 40)], {}, [])
    second = there.come(70, ids=(1, 2, 3, 4))
    assert second.cached == 32
    assert step(there) == Said([(second, 32, 38)], {second: 32}, [])
    assert second.prefilled == 70
    assert there.scheduler.ledger.used == 3 + 5 - 2  # each has the block of its next token


def test_two_that_prefill_together_end_up_with_one_copy() -> None:
    there = desk()
    for _ in range(2):
        there.come(40, ids=(1, 2))
    step(there)
    assert there.scheduler.ledger.used == 2 + 1 + 1


def test_the_newest_token_is_always_computed() -> None:
    there = desk()
    there.come(32, ids=(1, 2))
    step(there)
    again = there.come(32, ids=(1, 2))
    assert step(there).prefill == [(again, 16, 16)]


def test_what_nobody_holds_is_idle_and_goes_when_the_room_is_taken() -> None:
    there = desk(blocks=6)
    for ids in ((1, 2), (3, 4)):
        job = there.come(33, ids=ids)
        step(there, job)
    assert idle(there) == [2, 1, 4, 3]  # first let go, first to go; of one job the deepest
    assert there.scheduler.ledger.used == 0
    third = there.come(60, ids=(1, 5, 6))
    said = step(there)
    assert said.found == {third: 16}  # what is found of it stays, though it would have gone before the others
    assert said.evict == [2]  # 4 blocks for the job, 1 of them found: of 5 that are free or idle two remain
    assert idle(there) == [4, 3]


def test_an_answer_is_found_where_the_body_tells_it() -> None:
    there = desk()
    first = there.come(30, ids=(1,))
    step(there)
    step(there)
    step(there)
    step(there, first, answers={first: (2, 9)})  # 34 tokens, of the last one no KV: the second unit is full, no third
    second = there.come(64, ids=(1, 2, 3, 4))
    assert step(there).found == {second: 32}


def test_a_job_that_was_cancelled_leaves_what_it_has_computed() -> None:
    there = desk()
    job = there.come(40, ids=(1, 2))
    step(there)
    there.scheduler.cancel(job, there.now)
    assert idle(there) == [2, 1]
    assert step_of_another(there).found


def step_of_another(there: Desk) -> Said:
    there.come(40, ids=(1, 2))
    return step(there)


def test_all_is_forgotten_with_the_kv() -> None:
    there = desk()
    job = there.come(40, ids=(1, 2))
    step(there)
    there.scheduler.forget_all(there.now)
    assert job.cached == 0 and not idle(there)
    assert step(there).found == {}


def test_what_is_idle_can_be_forgotten() -> None:
    """What a live job holds stays, and others find it; the next plan tells which units went."""
    there = desk()
    scheduler = there.scheduler
    assert isinstance(scheduler, PrefixScheduler)
    first = there.come(70, ids=(1, 2, 3, 4))
    step(there)
    step(there, first)
    other = there.come(40, ids=(1, 2))
    assert step(there).found == {other: 32}
    assert not scheduler.forget_idle(there.now)
    audit(scheduler)
    assert idle(there) == []
    third = there.come(70, ids=(1, 2, 3, 4))
    assert third.cached == 32
    assert step(there)[1:] == ({third: 32}, [4, 3])
    step(there, other, third)
    assert scheduler.forget_idle(there.now)
    fourth = there.come(70, ids=(1, 2, 3, 4))
    assert fourth.cached == 0
    assert step(there) == Said([(fourth, 0, 70)], {}, [4, 3, 2, 1])


def test_a_job_that_can_never_fit_is_refused_whatever_it_would_find() -> None:
    there = desk(blocks=4)
    step(there, there.come(40, ids=(1, 2)))
    with pytest.raises(RefusedError, match="the device has 4"):
        there.come(70, ids=(1, 2, 3, 4))


def test_off_nothing_is_remembered() -> None:
    there = Desk("fcfs", 4, {"device_blocks": 10})
    for _ in range(2):
        job = there.come(40, ids=(1, 2))
        assert job.cached == 0
        assert step(there, job) == Said([(job, 0, 40)], {}, [])


def test_units_are_whole_blocks() -> None:
    with pytest.raises(ValueError, match="prefix_tokens=24 is not a whole number of KV blocks of 16 tokens"):
        desk(prefix_tokens=24)
    with pytest.raises(ValueError, match="prefix_cache='yes' is none of auto, off, on"):
        SchedulerConfig(prefix_cache="yes")
