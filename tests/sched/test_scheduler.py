"""The Scheduler's doors: what is asked, refused, held, cut and forgotten. Whole runs are in test_specification."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.policies.fcfs import Fcfs
from fastserve.sched.errors import RefusedError
from fastserve.sched.job import NEVER, NOWHERE, Job
from fastserve.sched.plan import Outcome
from fastserve.sched.policy import Policy
from tests.policies.desk import MS, Desk
from tests.sched.audit import audit


def desk(policy: str | Policy = "fcfs", slots: int = 2, **options: Any) -> Desk:
    return Desk(policy, slots, options)


def test_without_jobs_there_is_nothing_to_do() -> None:
    assert desk().scheduler.plan(0) is None and desk().scheduler.opens_at() == NEVER


def test_a_plan_can_be_asked_twice_and_thrown_away() -> None:
    one = desk()
    jobs = [one.come(5), one.come(7), one.come(9)]
    for _ in range(2):
        plan = one.scheduler.plan(0)
        assert plan is not None and list(plan.joined) == jobs[:2] and plan.members == jobs[:2]
        assert list(plan.prefill) == [(jobs[0], 5), (jobs[1], 7)] and plan.moves is None
    assert one.run(1) == jobs[:2]
    audit(one.scheduler)


def test_an_undisturbed_batch_is_planned_for_many_iterations_and_macro_off_for_one() -> None:
    for macro, most in ((True, NEVER), (False, 1)):
        one = desk(macro=macro)
        one.come(1)
        one.run(1)
        plan = one.scheduler.plan(one.now)
        assert plan is not None and plan.iterations == most and (plan.batch, plan.context) == (1, 2)


def test_a_plan_ends_where_an_alarm_rings() -> None:
    one = desk("las")
    one.come(1)
    one.run(1)
    plan = one.scheduler.plan(one.now)
    assert plan is not None and 0 < plan.service < NEVER


@pytest.mark.parametrize("k", [0, 2])
def test_a_plan_is_run_as_often_as_it_says(k: int) -> None:
    one = desk(macro=False)
    one.come(1)
    plan = one.scheduler.plan(0)
    assert plan is not None
    with pytest.raises(ValueError, match=f"a plan for 1 to 1 iterations was run {k} times"):
        one.scheduler.commit(plan, Outcome(k, MS), MS)


def test_cancelled_jobs_are_named_once_and_departed_ones_ignored() -> None:
    one = desk()
    gone, stays = one.come(1), one.come(1)
    one.run(1)
    one.scheduler.cancel(gone, one.now)
    one.scheduler.cancel(gone, one.now)
    plan = one.scheduler.plan(one.now)
    assert plan is not None and list(plan.gone) == [gone] and gone.finish == "cancelled"
    assert one.run(1) == [stays]
    plan = one.scheduler.plan(one.now)
    assert plan is not None and not plan.gone
    audit(one.scheduler)


def test_what_departed_can_neither_be_ranked_nor_woken() -> None:
    one = desk()
    job = one.come(1)
    one.run(1, job)
    one.scheduler.rerank(job)
    one.scheduler.wake(job, 1, 1, 1)
    assert not one.scheduler.ranking.dirty and job.served_goal == NEVER and not one.scheduler.alarms.waited
    stranger = Job(9, 0, 1)
    one.scheduler.rerank(stranger)
    assert not one.scheduler.ranking.dirty


def test_a_job_that_outgrows_the_device_is_truncated() -> None:
    one = desk(device_blocks=1)
    job = one.come(15)
    one.run(1)
    one.run(1)
    assert job.finish == "truncated" and job.generated == 2 and not one.scheduler.live
    with pytest.raises(RefusedError, match="needs 2 KV blocks"):
        one.come(17)


def test_when_all_kv_is_lost_everybody_owes_a_prefill() -> None:
    one = desk()
    first, second = one.come(3), one.come(4)
    one.run(1)
    assert one.scheduler.forget_all(one.now) == [first, second]
    assert first.preemptions == 1 and first.place is NOWHERE and not one.scheduler.running
    audit(one.scheduler)
    plan = one.scheduler.plan(one.now)
    assert plan is not None and list(plan.prefill) == [(first, 4), (second, 5)]


def test_the_cap_can_change_but_not_below_who_runs() -> None:
    one = desk(slots=2)
    one.come(1)
    one.come(1)
    one.run(1)
    with pytest.raises(ValueError, match="a batch cap of 1 with 2 jobs in the batch"):
        one.scheduler.resize(1)
    one.scheduler.resize(3)
    assert one.scheduler.slots == 3
    third = one.come(1)
    assert third in one.run(1)


def test_a_policy_serves_one_run() -> None:
    policy = Fcfs()
    desk(policy)
    with pytest.raises(ValueError, match="this Fcfs has served another run"):
        desk(policy)
