"""The KV ledger: counts of blocks, in closed form over many iterations."""

from __future__ import annotations

import random

import pytest

from fastserve.sched.errors import RefusedError
from fastserve.sched.job import DEVICE, HOST, LEAVING, NOWHERE, Job, Meter
from fastserve.sched.kv import Ledger
from fastserve.sched.plan import Copy


def waiting(ledger: Ledger, tokens: int) -> Job:
    """A job that has left the batch with so many tokens in its KV."""
    job = Job(0, 0, tokens + 1)
    job.meter = Meter(ledger.block)
    job.place = DEVICE
    ledger.leave(job)
    return job


def test_need_holds_the_next_token_and_held_does_not() -> None:
    ledger = Ledger(100, 0, 16, False)
    assert [(ledger.need(Job(0, 0, n)), ledger.held(Job(0, 0, n))) for n in (16, 17)] == [(1, 1), (2, 1)]
    whole = Ledger(100, 0, 16, True)
    assert whole.need(Job(0, 0, 16, limit=17)) == 3 and not whole.grows(Job(0, 0, 16, limit=17))
    assert whole.need(Job(0, 0, 16)) == 1 and whole.grows(Job(0, 0, 16))


def test_what_can_never_fit_is_refused() -> None:
    ledger = Ledger(2, 0, 16, False)
    ledger.check(Job(0, 0, 32))
    with pytest.raises(RefusedError, match="job 5: a prompt of 33 tokens needs 3 KV blocks of 16 tokens"):
        ledger.check(Job(5, 0, 33))


def test_many_iterations_are_as_many_single_ones() -> None:
    rng = random.Random(1)
    for _ in range(200):
        block = rng.choice([1, 3, 16])
        tokens = [rng.randint(1, 50) for _ in range(rng.randint(1, 6))]
        start, k = rng.randint(0, 40), rng.randint(1, 70)
        ledger = Ledger(10**6, 0, block, False)
        for n in tokens:
            job = Job(0, 0, n)
            job.tokens_base = -start
            ledger.roll(job, 1)
        ledger.advance(start, k)
        assert ledger.used == sum(-(-(n + k) // block) + n // -block for n in tokens)
        room = rng.randint(0, 30)
        steps = ledger.steps_within(room, len(tokens), start, 1000, ledger.phase)
        grown = [sum(-(-(n + i) // block) + n // -block for n in tokens) for i in (steps - 1, steps)]
        assert grown[0] <= room < grown[1] or steps == 1000


def test_a_copy_out_moves_its_blocks_when_it_lands() -> None:
    ledger = Ledger(100, 100, 16, False)
    job = waiting(ledger, 33)
    copy = Copy(job, 3, True)
    ledger.start(copy)
    assert (job.place, ledger.cold, ledger.leaving, ledger.hosted) == (LEAVING, 3, 3, 3)
    ledger.finish(copy)
    assert (job.place, ledger.cold, ledger.leaving, ledger.hosted) == (HOST, 0, 0, 3)
    assert job in ledger.away and not ledger.copies


def test_who_joins_while_it_is_copied_out_goes_on_and_the_copy_is_an_orphan() -> None:
    ledger = Ledger(100, 100, 16, False)
    job = waiting(ledger, 33)
    copy = Copy(job, 3, True)
    ledger.start(copy)
    ledger.join(job)
    assert copy.orphan and job.place is DEVICE and (ledger.cold, ledger.used, ledger.hosted) == (0, 3, 3)
    ledger.finish(copy)
    assert ledger.hosted == 0 and job.place is DEVICE


def test_a_prefetch_that_gives_way_stays_on_the_host() -> None:
    ledger = Ledger(100, 100, 16, False)
    job = waiting(ledger, 33)
    out = Copy(job, 3, True)
    ledger.start(out)
    ledger.finish(out)
    back = Copy(job, 3, False)
    ledger.start(back)
    assert (ledger.cold, ledger.hosted) == (3, 3)
    ledger.abort(back)
    assert (ledger.cold, ledger.hosted, job.place) == (0, 3, HOST)
    ledger.remove(job)
    assert ledger.hosted == 0 and job.place is NOWHERE


def test_dropped_kv_is_forgotten() -> None:
    ledger = Ledger(100, 0, 16, False)
    job = waiting(ledger, 33)
    job.prefilled = 33
    ledger.drop(job)
    assert (ledger.cold, job.prefilled, job.place) == (0, 0, NOWHERE) and not ledger.parked
