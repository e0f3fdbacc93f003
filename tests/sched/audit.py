"""Has any sum of a Scheduler drifted from what its jobs themselves say?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastserve.sched.alarms import served_at, tokens_at, waited_at
from fastserve.sched.job import NEVER, Copy, Job
from fastserve.sched.kv import Ledger
from fastserve.sched.ranking import Ranking
from fastserve.sched.scheduler import Scheduler


def audit(scheduler: Scheduler) -> None:
    """AssertionError if one has. Between commit() and plan()."""
    ledger = scheduler.ledger
    alarms = scheduler.alarms
    running = list(scheduler.running)
    waiting = [job for job in scheduler.live if not job.running]
    rolling = [job for job in running if job.rolling]
    orphans = [copy for copy in ledger.copies if copy.orphan]
    assert len(running) <= scheduler.slots
    assert set(running) <= set(scheduler.live)
    assert scheduler.batch == len(rolling)
    assert scheduler.context == sum(job.prompt + job.generated for job in rolling)
    assert set(scheduler.prefilling) == {job for job in running if not job.rolling}
    assert set(scheduler.fresh) == {job for job in running if job.fresh}
    assert ledger.used == sum(ledger.need(job) for job in running)
    residues = [0] * ledger.block
    for job in rolling:
        residues[(job.prompt + job.tokens_base + ledger.lookahead) % ledger.block] += ledger.grows(job)
    assert ledger.phase == residues
    for at, heap in ((served_at, alarms.served), (tokens_at, alarms.tokens), (waited_at, alarms.waited)):
        entries = {(entry[0], entry[-1]) for entry in heap}
        assert all(at(job) == NEVER or (at(job), job) in entries for job in scheduler.live)
    assert ledger.cold == _held(ledger, waiting, "device", "leaving", "coming") + _blocks(orphans, out=False)
    assert ledger.leaving == _held(ledger, waiting, "leaving")
    assert ledger.hosted == _held(ledger, waiting, "host", "leaving", "coming") + _blocks(orphans, out=True)
    assert ledger.hosted <= ledger.host
    assert set(ledger.parked) == {job for job in waiting if job.place.value == "device"}
    assert set(ledger.away) == {job for job in waiting if job.place.value == "host"}


def broken_promises(ranking: Ranking) -> list[tuple[Job, Any, Any]]:
    """(job, stored rank, rank now) of whom the promise of a settled policy does not hold for."""
    ranking.refresh()
    ranking.refresh_run()
    found = []
    for stored in (ranking.wait, ranking.run):
        for rank, _, _, job in stored:
            now = ranking.entry_of(job)[0]
            if now != rank if stored is ranking.wait else rank < now:
                found.append((job, rank, now))
    return found


def _held(ledger: Ledger, jobs: Iterable[Job], *places: str) -> int:
    return sum(ledger.held(job) for job in jobs if job.place.value in places)


def _blocks(copies: Iterable[Copy], out: bool) -> int:
    return sum(copy.blocks for copy in copies if copy.out is out)
