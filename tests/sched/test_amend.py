"""A body that does other than planned, counts that are put right and a pool that is resized, by hand; what must not be
said of them; and the comparison with the specification.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.sched.config import SchedulerConfig
from fastserve.sched.errors import RefusedError
from fastserve.sched.job import DEVICE, LEAVING, NEVER, NOWHERE, Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.policy import Policy
from tests.policies.desk import MS, Desk
from tests.sched.audit import audit
from tests.sched.sharing import BATCHINGS, NAMES, POOLS
from tests.sched.test_extra import Bell
from tests.sched.trouble import compare

CHUNKED: dict[str, Any] = {"batching": "chunked", "token_budget": 32}


@pytest.mark.parametrize("prefixes", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("memory", POOLS)
@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_body_does_all_is_as_specified(name: str, memory: str, prefixes: bool) -> None:
    turn = NAMES.index(name) + POOLS.index(memory)
    compare(name, 0, BATCHINGS[turn % 4], memory, prefixes, n=16, tier=turn % 3 == 0)


def desk(policy: str | Policy = "fcfs", slots: int = 3, **options: Any) -> Desk:
    return Desk(policy, slots, CHUNKED | options)


def planned(d: Desk) -> Plan:
    plan = d.scheduler.plan(d.now)
    assert plan is not None
    return plan


def commit(d: Desk, plan: Plan, ms: int = 10, *ended: Job) -> None:
    d.now += ms * MS
    d.scheduler.commit(plan, Outcome(1, ms * MS, ended=ended), d.now)
    audit(d.scheduler)


# -- amend -------------------------------------------------------------------------------------------------------------


def test_a_prefill_of_other_chunks() -> None:
    d = desk()
    a, b, c = d.come(prompt=70), d.come(prompt=20), d.come(prompt=8)
    plan = planned(d)
    assert (plan.joined, plan.prefill) == ([a, b, c], [(a, 32)])
    d.scheduler.amend(plan, prefill=[(a, 10), (c, 8)])
    assert (plan.joined, plan.prefill, plan.iterations) == ([a, b, c], [(a, 10), (c, 8)], 1)
    commit(d, plan)
    assert (a.prefilled, b.prefilled, c.generated) == (10, 0, 1)
    assert planned(d).prefill == [(a, 31)]


def test_who_did_not_join_is_asked_again() -> None:
    d = desk(max_resident=3, residency="recompute")
    a, b = d.come(prompt=20), d.come(prompt=8)
    plan = planned(d)
    d.scheduler.amend(plan, absent=[b])
    assert plan.prefill == [(a, 20)]
    commit(d, plan)
    assert (b.running, b.place, b.preemptions) == (False, NOWHERE, 0)
    assert planned(d).joined == [b]


def test_who_comes_back_with_its_kv_may_stay_away_too() -> None:
    d = desk("srpt", slots=1)
    long = d.come(prompt=20, guess=100)
    d.run(10)
    short = d.come(prompt=4, guess=1)
    d.run(10, short)
    plan = planned(d)
    assert (plan.joined, plan.batch, plan.context) == ([long], 1, 21)
    d.scheduler.amend(plan, absent=[long])
    assert (plan.joined, plan.batch, plan.context) == ([], 0, 0)
    commit(d, plan)
    assert (long.running, long.place, long.generated) == (False, DEVICE, 1)
    assert d.run(10) == [long]
    assert long.generated == 2


@pytest.mark.parametrize("rolling", [True, False])
def test_kv_that_was_lost_is_computed_again(rolling: bool) -> None:
    d = desk()
    a, b = d.come(prompt=8), d.come(prompt=50)
    d.run(10)
    gone, stays = (a, b) if rolling else (b, a)
    plan = planned(d)
    d.scheduler.amend(plan, lost=[gone])
    assert (plan.left, plan.drop) == ([gone], [gone])
    assert (plan.batch, plan.context) == ((0, 0) if rolling else (1, 9))
    assert plan.prefill == ([(b, 26)] if rolling else [])
    commit(d, plan)
    assert (gone.running, gone.place, gone.prefilled, gone.preemptions) == (False, NOWHERE, 0, 1)
    assert stays.running
    assert planned(d).joined == [gone]


def test_kv_of_who_waits_leaves_or_was_to_come_back_may_be_lost() -> None:
    d = desk("srpt", slots=1)
    long = d.come(prompt=20, guess=100)
    d.run(10)
    short = d.come(prompt=4, guess=2)
    plan = planned(d)
    assert plan.left == [long]
    d.scheduler.amend(plan, lost=[long])  # as it leaves
    commit(d, plan)
    assert (long.place, long.preemptions) == (NOWHERE, 1)
    d.run(10, short)
    d.run(10)
    other = d.come(prompt=4, guess=2)
    d.run(10)
    assert long.place is DEVICE
    plan = planned(d)
    d.scheduler.amend(plan, lost=[long])  # while it waits
    commit(d, plan, 10, other)
    assert (long.place, long.preemptions) == (NOWHERE, 2)
    d.run(10)
    d.run(10, d.come(prompt=4, guess=2))
    plan = planned(d)
    assert plan.joined == [long]
    d.scheduler.amend(plan, lost=[long])  # as it comes back
    commit(d, plan)
    assert (long.place, long.running, long.preemptions) == (NOWHERE, False, 3)


@pytest.mark.parametrize("prefixes", ["off", "on"])
def test_what_the_body_found_is_not_computed(prefixes: str) -> None:
    d = desk(slots=2, prefix_cache=prefixes)
    ids = range(100, 104)
    a = d.come(prompt=70, ids=ids)
    plan = planned(d)
    d.scheduler.amend(plan, found={a: 69})
    assert plan.prefill == [(a, 1)]
    assert plan.first(a) == 69
    commit(d, plan)
    assert a.generated == 1
    b = d.come(prompt=70, ids=ids)
    plan = planned(d)
    assert plan.found.get(b, 0) == (64 if prefixes == "on" else 0)
    d.scheduler.amend(plan, found={b: 0})
    commit(d, plan)
    assert b.prefilled == plan.prefill[0][1] < 32
    d.run(10)
    d.run(10)
    d.run(10)
    assert b.generated >= 1
    audit(d.scheduler)
    if prefixes == "on":  # the second copy has merged
        assert d.scheduler.pool_used() == 2 * 5 * 16 - 64
        assert d.scheduler.hits(10**9) == (69, 140)


def test_a_visit_guard_is_asked_again() -> None:
    d = desk("srpt", slots=1, device_blocks=8, residency="recompute", visit=3)
    d.come(prompt=64, guess=100)
    for _ in range(3):
        d.run(10)
    d.come(prompt=60, guess=1)
    plan = planned(d)
    assert plan.hold > d.scheduler.meter.service
    d.scheduler.amend(plan)
    assert (plan.hold, plan.iterations, plan.service, plan.until) == (0, 1, NEVER, NEVER)
    commit(d, plan)
    assert d.scheduler.guarded == 0


def test_nothing_at_all_may_have_run() -> None:
    d = desk(charging="tokens")
    a = d.come(prompt=8)
    plan = planned(d)
    d.scheduler.amend(plan, prefill=[])
    commit(d, plan)
    assert (a.running, a.prefilled, a.served) == (True, 0, 0)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"absent": ["runs"]}, "`absent` names job 0, which does not join with this plan"),
    ({"lost": ["comes", "ended"]}, "`lost` names job 3, which has departed: its KV is gone with it"),
    ({"lost": ["waits"]}, "`lost` names job 4, whose KV is nowhere; only what lies on the device can be given up"),
    ({"found": {"half": 3}}, "`found` names job 1, which does not begin a prefill with this plan"),
    ({"found": {"comes": 3}, "absent": ["comes"]}, "`found` names job 2, which does not begin a prefill"),
    ({"found": {"comes": 9}}, "`found` says 9 tokens of job 2; it is 0 to 8, for its newest token is always computed"),
    ({"prefill": [("runs", 1)]}, "`prefill` names job 0, which has no prefill to do in this plan"),
    ({"prefill": [("comes", 1)], "lost": ["comes"]}, "`prefill` names job 2, which has no prefill to do"),
    ({"prefill": [("half", 1)], "lost": ["half"]}, "`prefill` names job 1, which has no prefill to do"),
    ({"prefill": [("half", 2), ("half", 2)]}, "`prefill` names job 1 twice; add its tokens up"),
    ({"prefill": [("half", 27)]}, "`prefill` says 27 tokens of job 1, which owes 26: name 1 to 26, and leave out who"),
    ({"prefill": [("half", 0)]}, "`prefill` says 0 tokens of job 1"),
    ({"prefill": [("comes", 6)], "found": {"comes": 4}}, "`prefill` says 6 tokens of job 2, which owes 5"),
]


@pytest.mark.parametrize(("said", "message"), WRONG)
def test_what_no_body_can_have_done(said: dict[str, Any], message: str) -> None:
    """Nothing has changed then."""
    d = desk(slots=3)
    jobs = {"runs": d.come(prompt=2), "half": d.come(prompt=56)}
    d.run(10)
    ended = d.come()
    d.scheduler.cancel(ended, d.now)
    comes, waits = Job(2, d.now, 9), Job(4, d.now, 9)
    ended.id = 3
    d.scheduler.submit(comes, d.now)
    d.scheduler.submit(waits, d.now)
    jobs |= {"comes": comes, "waits": waits, "ended": ended}
    plan = planned(d)
    assert plan.joined == [comes]

    def facts() -> tuple[Any, ...]:
        moves = plan.moves and (plan.moves.drop, plan.moves.load)
        return plan.joined, plan.left, plan.prefill, plan.batch, plan.context, moves, plan.shares, plan.iterations

    before = facts()
    given = {
        key: {jobs[name]: n for name, n in value.items()}
        if isinstance(value, dict)
        else [(jobs[each[0]], each[1]) if isinstance(each, tuple) else jobs[each] for each in value]
        for key, value in said.items()
    }
    with pytest.raises(ValueError, match=message):
        d.scheduler.amend(plan, **given)
    assert facts() == before
    audit(d.scheduler)
    commit(d, plan)
    assert comes.running


# -- correct -----------------------------------------------------------------------------------------------------------


def test_a_count_is_put_right_wherever_the_job_is() -> None:
    d = desk("srpt", slots=1, device_blocks=8, host_blocks=8, residency="reactive", visit=0)
    job = d.come(prompt=47, guess=100)
    d.run(10)
    d.scheduler.correct(job, 16, d.now)  # in the middle of its prefill
    assert d.scheduler.ledger.used == 4
    audit(d.scheduler)
    d.run(10)
    assert job.generated == 17
    d.scheduler.correct(job, -17, d.now)  # while it decodes
    assert (job.generated, d.scheduler.context, d.scheduler.ledger.used) == (0, 47, 3)
    audit(d.scheduler)
    d.run(10)
    d.run(10)
    short = d.come(prompt=100, guess=1)
    d.run(10)
    assert job.place is LEAVING
    hosted = d.scheduler.ledger.hosted
    for tokens, more in ((16, 1), (-16, 0)):  # while a copy of it goes out
        d.scheduler.correct(job, tokens, d.now)
        assert d.scheduler.ledger.hosted == hosted + more
        audit(d.scheduler)
    for _ in range(3):
        d.run(10)
    d.run(10, short)
    assert d.run(10) == [job]
    audit(d.scheduler)
    new = d.come(prompt=3, guess=100)
    d.scheduler.correct(new, 5, d.now)  # before it has begun
    assert new.generated == 5
    audit(d.scheduler)


def test_a_prefill_of_what_is_not_there_ends_with_its_newest_token() -> None:
    d = desk()
    job = Job(0, 0, 20)
    job.tokens_base = 20
    d.scheduler.submit(job, 0)
    d.run(10)
    assert job.prefilled == 32
    d.scheduler.correct(job, -10, d.now)
    assert job.prefilled == 29
    assert planned(d).prefill == [(job, 1)]
    d.run(10)
    assert job.generated == 11


def test_alarms_on_tokens_ring_at_the_next_commit() -> None:
    bell = Bell(tokens=6)
    d = desk(bell, slots=1)
    first, waits = d.come(), d.come()
    d.run(10)
    d.run(10)
    d.scheduler.correct(first, 4, d.now)
    d.scheduler.correct(waits, 6, d.now)
    assert bell.rung == []
    d.run(10)
    assert bell.rung == [(30, 7), (30, 6)]
    d.run(10)
    assert len(bell.rung) == 2


def test_an_alarm_that_a_correction_made_due_rings_though_its_job_has_left() -> None:
    bell = Bell(tokens=6)
    d = desk(bell, slots=2, device_blocks=4)
    first, second = d.come(prompt=8), d.come(prompt=8)
    d.run(10)
    d.scheduler.correct(second, 5, d.now)
    d.scheduler.resize_pool(1)
    assert d.run(10) == [first]
    assert bell.rung == [(20, 6)]


@pytest.mark.parametrize("tokens", [-2, 4])
def test_no_count_below_none_or_above_the_limit(tokens: int) -> None:
    d = desk()
    job = d.come(limit=4)
    d.run(10)
    with pytest.raises(
        ValueError, match=f"job 0 has 1 tokens, and would have {1 + tokens}: it has 0 to its limit of 4"
    ):
        d.scheduler.correct(job, tokens, d.now)
    d.run(10, job)
    with pytest.raises(ValueError, match="job 0 has departed, and its count stands"):
        d.scheduler.correct(job, 1, d.now)


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_who_no_longer_fits_leaves_the_weakest_first() -> None:
    d = desk(device_blocks=20)
    first, second, third = d.come(prompt=30), d.come(prompt=30), d.come(prompt=200)
    for _ in range(4):
        d.run(10)
    assert (first.rolling, second.rolling, third.rolling) == (True, True, False)
    assert d.scheduler.policy.machine.pool_tokens == 320
    d.scheduler.resize_pool(6)
    assert d.scheduler.policy.machine.pool_tokens == 96
    plan = planned(d)  # whose place is safe goes after those who may be displaced
    assert (plan.left, plan.drop) == ([second, first, third], [third])
    assert (plan.batch, list(plan.prefill)) == (0, [])
    commit(d, plan)
    assert (first.place, third.place, third.prefilled) == (DEVICE, NOWHERE, 0)
    assert d.run(10) == [first, second]
    d.scheduler.resize_pool(20)
    assert d.run(10) == [first, second, third]
    audit(d.scheduler)


def test_who_would_not_fit_even_alone_waits_and_keeps_nobody_out() -> None:
    d = desk(device_blocks=20)
    d.scheduler.resize_pool(4)
    with pytest.raises(RefusedError, match="the device has 4"):
        d.come(prompt=100)
    d.scheduler.resize_pool(10)
    large = d.come(prompt=100)
    d.scheduler.resize_pool(4)
    assert d.scheduler.plan(d.now) is None
    assert d.scheduler.opens_at() == NEVER
    with pytest.raises(RefusedError):
        d.scheduler.check(large)
    small = d.come(prompt=10)
    assert d.run(10) == [small]
    d.scheduler.resize_pool(10)
    assert d.run(10, small) == [large, small]


def test_idle_units_go_with_the_pool() -> None:
    d = desk(device_blocks=20, prefix_cache="on")
    job = d.come(prompt=160, ids=range(10))
    for _ in range(5):
        d.run(10)
    d.run(10, job)
    assert d.scheduler.pool_idle() == 160
    d.scheduler.resize_pool(5)
    d.come(prompt=20)
    plan = planned(d)
    assert plan.evict == [(range(10), 3, 10)]
    commit(d, plan)
    assert d.scheduler.pool_idle() == 48


def test_a_pool_of_nothing_or_without_a_bound() -> None:
    with pytest.raises(ValueError, match="a KV pool of 0 blocks holds nothing; give at least 1"):
        desk(device_blocks=20).scheduler.resize_pool(0)
    with pytest.raises(ValueError, match="the KV pool of this Scheduler has no bound to move"):
        desk().scheduler.resize_pool(5)


# -- max_resident ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [None, 1000])
@pytest.mark.parametrize("prompt", [1, 20])
def test_no_more_have_kv_than_max_resident(blocks: int | None, prompt: int) -> None:
    d = desk("srpt", slots=1, residency="recompute", max_resident=2, device_blocks=blocks)
    jobs = []
    for guess in (100, 90, 80, 70):
        jobs.append(d.come(prompt=prompt, guess=guess))
        d.run(10)
        assert sum(job.place is DEVICE for job in jobs) == min(2, len(jobs))
        audit(d.scheduler)
    assert [job.place is DEVICE for job in jobs] == [False, False, True, True]  # the worst rank is the coldest


def test_max_resident_needs_recompute_and_a_row_for_each_slot() -> None:
    with pytest.raises(ValueError, match="max_resident=8 needs residency='recompute'"):
        SchedulerConfig(max_batch=4, max_resident=8)
    with pytest.raises(
        ValueError, match=r"a batch cap of 9, and KV of at most 8 jobs .* \(max_resident\); give at most"
    ):
        SchedulerConfig(max_batch=9, max_resident=8, residency="recompute")
    d = desk(slots=2, residency="recompute", max_resident=4)
    d.scheduler.resize(4)
    with pytest.raises(ValueError, match="a batch cap of 5"):
        d.scheduler.resize(5)


# -- jobs that come with tokens ----------------------------------------------------------------------------------------


def test_a_job_may_come_with_output_tokens() -> None:
    bell = Bell(tokens=2)
    d = desk(bell)
    job = Job(0, 0, 20, limit=10)
    job.tokens_base = 7
    d.scheduler.submit(job, 0)
    assert planned(d).prefill == [(job, 27)]
    d.run(10)
    assert (job.generated, bell.rung) == (8, [])
    d.run(10)
    assert bell.rung == [(20, 9)]
    d.run(10, job)
    assert (job.generated, job.finish) == (10, "stop")
    audit(d.scheduler)
