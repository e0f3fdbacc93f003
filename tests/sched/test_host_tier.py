"""What a plan says where the host remembers units, too. Whole runs are in test_sharing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from fastserve.sched.job import Copy, Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.sharing import SharedLedger
from tests.policies.desk import Desk, Times
from tests.sched.audit import audit

A, B, C = (1, 2), (3, 4), (5, 6)


def desk(tokens: int = 1000, **options: object) -> Desk:
    """The device has room for four blocks: two prompts of two units, if nobody runs."""
    shape = {"prefix_cache": "on", "device_blocks": 4, "residency": "recompute", "host_prefix_tokens": tokens}
    return Desk("fcfs", 4, shape | options)


def step(
    there: Desk, *ended: Job, copied: Sequence[Copy] = (), answers: Mapping[Job, Sequence[int]] | None = None
) -> Plan:
    """One iteration, in which these jobs and copies end, and what the step waits for."""
    plan = there.scheduler.plan(there.now)
    assert plan is not None
    there.now += 1000
    landed = [*copied, *(copy for copy in [*plan.load, *plan.clear] if copy not in copied)]
    there.scheduler.commit(plan, Outcome(1, 1000, ended=ended, copied=landed, answers=answers), there.now)
    audit(there.scheduler)
    return plan


def serve(there: Desk, ids: Sequence[int]) -> list[Copy]:
    """A job of two units comes and ends with its first token. Returns what is copied to the host for it, on its way."""
    step(there, there.come(33, ids=ids))
    tier = ledger(there).tier
    assert tier is not None
    return list(tier.stores)


def write(there: Desk, *paths: Sequence[int]) -> None:
    """Jobs with these prompts come and end one after the other; what they have computed reaches the host at once."""
    for ids in paths:
        stores = serve(there, ids)
        there.come(1)
        step(there, *there.scheduler.live, copied=stores)


def ledger(there: Desk) -> SharedLedger:
    found = there.scheduler.ledger
    assert isinstance(found, SharedLedger)
    return found


def kept(there: Desk) -> list[int]:
    """Units on the host that no copy needs, the next to be forgotten first."""
    tier = ledger(there).tier
    assert tier is not None
    return tier.tree.idle_ids()


def units(copies: Sequence[Copy]) -> list[list[int]]:
    return [list(copy.units[0][copy.units[1] : copy.units[2]]) for copy in copies if copy.units is not None]


def test_what_a_prefill_has_computed_goes_to_the_host_and_an_answer_at_the_end() -> None:
    there = desk(device_blocks=10)
    job = there.come(33, ids=A)
    assert not step(there).store
    second = step(there, copied=())
    assert units(second.store) == [[1, 2]] and second.store[0].blocks == 2 and second.store[0].out
    for _ in range(13):
        step(there)
    step(there, job, copied=second.store, answers={job: (7,)})
    there.come(1)
    assert units(step(there).store) == [[7]]


def test_what_goes_from_the_device_is_found_on_the_host_and_loaded() -> None:
    there = desk()
    write(there, A, B, C)
    assert kept(there) == [2, 1, 4, 3, 6, 5]
    job = there.come(50, ids=(*A, 9))
    assert (job.cached, job.cached_host) == (0, 32)
    plan = step(there)
    assert units(plan.load) == [[1, 2]] and not plan.load[0].out and plan.load[0].job is job
    assert plan.found == {job: 32} and plan.prefill == [(job, 18)] and job.prefilled == 50
    assert kept(there) == [4, 3, 6, 5]  # what a copy under way needs is not among them
    assert units(ledger(there).tier.stores) == [[9]]  # type: ignore[union-attr]


def test_only_what_the_device_has_not_is_loaded() -> None:
    there = desk(device_blocks=5)
    write(there, A, B)
    there.scheduler.ledger.tree.shrink(1)  # type: ignore[attr-defined]
    job = there.come(40, ids=A)
    assert (job.cached, job.cached_host) == (16, 16)
    plan = step(there)
    assert units(plan.load) == [[2]] and plan.found == {job: 32}


def test_nothing_is_loaded_that_is_computed_as_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    there = desk()
    write(there, A, B, C)
    monkeypatch.setattr(Times, "load_ns", lambda self, tokens: self.prefill_ns(tokens) - self.prefill_ns(1))
    job = there.come(33, ids=A)
    assert job.cached_host == 0
    plan = step(there)
    assert not plan.load and plan.found == {} and plan.prefill == [(job, 33)]
    monkeypatch.setattr(Times, "load_ns", lambda self, tokens: self.prefill_ns(tokens) - self.prefill_ns(1) - 1)
    step(there, job)
    assert there.come(33, ids=B).cached_host == 32


def test_the_host_forgets_what_was_written_first_and_the_deepest_first() -> None:
    there = desk(tokens=5 * 16)
    write(there, A, B)
    assert kept(there) == [2, 1, 4, 3]
    write(there, A)  # ends again: the youngest
    assert kept(there) == [4, 3, 2, 1]
    stores = serve(there, C)
    there.come(1)
    plan = step(there)
    assert [id for ids, start, end in plan.forget for id in reversed(ids[start:end])] == [4]
    assert list(plan.store) == stores and units(stores) == [[5, 6]]
    assert kept(there) == [3, 2, 1]
    assert there.come(33, ids=B).cached_host == 16  # its first unit is still whole


def test_nothing_is_forgotten_that_a_copy_under_way_needs() -> None:
    there = desk(tokens=2 * 16, device_blocks=10)
    assert units(serve(there, A)) == [[1, 2]]
    assert units(serve(there, B)) == []
    assert kept(there) == []


def test_what_does_not_fit_is_written_from_its_first_unit_on() -> None:
    there = desk(tokens=16)
    assert units(serve(there, A)) == [[1]]


def test_a_step_that_needs_the_room_waits_for_the_copy() -> None:
    there = desk()
    stores = serve(there, A)
    there.come(60, ids=(*B, 9))
    plan = step(there)
    assert plan.clear == stores == list(plan.store)
    assert [id for ids, start, end in plan.evict for id in reversed(ids[start:end])] == [2, 1]
    assert kept(there)[:2] == [2, 1]


def test_a_copy_goes_on_though_the_job_is_preempted_or_comes_again() -> None:
    there = desk(device_blocks=10)
    stores = serve(there, A)
    again = there.come(33, ids=A)
    assert again.cached == 32
    step(there)
    assert not ledger(there).tree.idle
    step(there, again, copied=stores)
    assert ledger(there).tree.idle_ids() == [2, 1]


def test_all_is_forgotten_with_the_kv() -> None:
    there = desk()
    write(there, A, B, C)
    serve(there, (8, 9))
    there.scheduler.forget_all(there.now)
    job = there.come(33, ids=A)
    assert (job.cached, job.cached_host, kept(there)) == (0, 0, [])
    plan = step(there)
    assert not plan.store and not plan.load


def test_a_reset_forgets_what_is_on_the_host_and_calls_off_what_was_to_go_there() -> None:
    there = desk()
    write(there, A, B)
    assert not serve(there, B)
    job = there.come(50, ids=(*A, 9))
    step(there)
    step(there, job)
    there.come(1)
    assert there.scheduler.forget_idle(there.now) is False  # the copy of 9 is under way
    plan = step(there)
    assert [id for ids, start, end in plan.forget for id in reversed(ids[start:end])] == [4, 3]


def test_a_reset_at_rest_leaves_nothing() -> None:
    there = desk(device_blocks=10)
    job = there.come(50, ids=(*A, 9))
    step(there)
    plan = step(there)
    assert units(plan.store) == [[1, 2, 9]]
    step(there, job, copied=plan.store)
    job = there.come(70, ids=(*A, 7, 8))
    step(there, job)
    assert units(ledger(there).tier.stores) == [[7, 8]]  # type: ignore[union-attr]
    assert there.scheduler.forget_idle(there.now)
    audit(there.scheduler)
    there.come(1)
    plan = step(there)
    assert not plan.store and [list(ids[a:b]) for ids, a, b in plan.forget] == [[9], [1, 2]]


@pytest.mark.parametrize("options", [{"host_prefix_tokens": 15}, {"device_blocks": None}, {"prefix_cache": "off"}])
def test_there_is_none_where_it_is_of_no_use(options: dict[str, object]) -> None:
    there = desk(**options)
    for _ in range(2):
        job = there.come(33, ids=A)
        assert job.cached_host == 0
        step_plan = there.scheduler.plan(there.now)
        assert step_plan is not None and not step_plan.store
        there.scheduler.commit(step_plan, Outcome(1, 1000, ended=[job]), there.now)
