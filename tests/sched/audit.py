"""Has any sum of a Scheduler drifted from what its jobs themselves say?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from fastserve.sched.alarms import served_at, tokens_at, waited_at
from fastserve.sched.job import NEVER, Copy, Job
from fastserve.sched.kv import Ledger
from fastserve.sched.ranking import Ranking
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.sharing import SharedLedger
from fastserve.sched.units import Run, Tree


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
    saved = _units(ledger, running, waiting) if isinstance(ledger, SharedLedger) else (0, 0)
    assert ledger.used == sum(ledger.need(job) for job in running) - saved[0]
    residues = [0] * ledger.block
    for job in rolling:
        residues[(job.prompt + job.tokens_base + ledger.lookahead) % ledger.block] += ledger.grows(job)
    assert ledger.phase == residues
    for at, heap in ((served_at, alarms.served), (tokens_at, alarms.tokens), (waited_at, alarms.waited)):
        entries = {(entry[0], entry[-1]) for entry in heap}
        assert all(at(job) == NEVER or (at(job), job) in entries for job in scheduler.live)
    stores = [copy for copy in ledger.copies if copy.units is not None]
    lefts = [copy.job for copy in stores]
    parked = _held(ledger, waiting + lefts, "device", "leaving", "coming") + _blocks(orphans, out=False)
    assert ledger.cold == parked - saved[1]
    assert ledger.leaving == _held(ledger, waiting, "leaving") + _blocks(stores, out=True)
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


def _units(ledger: SharedLedger, running: list[Job], waiting: list[Job]) -> tuple[int, int]:
    """The blocks that the sums over jobs count too often, among used and cold ones. The tree is what the jobs hold."""
    tree = ledger.tree
    runs: Counter[int] = Counter()
    waits: Counter[int] = Counter()
    lefts = [copy.job for copy in ledger.copies if copy.units is not None]
    for jobs, counts in ((running, runs), (waiting + lefts, waits)):
        for job in jobs:
            place = job.place.value
            assert (job.tail.end if job.tail is not None else 0) == job.shared
            assert not job.shared or job.running or place in ("device", "leaving", "coming")
            if not job.running and place in ("device", "leaving"):
                # Who has left before its first token, since the pool was made smaller, may lack its last unit.
                most = tree.whole(job.ids, job.prompt)
                assert job.shared in (most, tree.whole(job.ids, job.prompt - 1))
            counts.update(job.ids[: job.shared])
    told = _told(tree)
    assert not any(id in told for ids, start, end in tree.lost for id in ids[start:end])
    if ledger.tier is not None:
        there = _told(ledger.tier.tree)
        copied = Counter(id for left in lefts for id in left.ids[: left.shared])
        assert {id: (0, n) for id, n in copied.items()} == {id: counts for id, counts in there.items() if counts[1]}
        assert len(there) == ledger.tier.units <= ledger.tier.room
        assert set(ledger.tier.stores) <= set(ledger.copies)
    assert {id: (runs[id], runs[id] + waits[id]) for id in runs | waits} == {
        id: counts for id, counts in told.items() if counts[1]
    }
    room = ledger.blocks - ledger.used - ledger.cold
    assert not tree.idle or ledger.moved or tree.idle_units * ledger.size <= room
    used = sum(n - 1 for n in runs.values())
    cold = sum(n if id in runs else n - 1 for id, n in waits.items())
    return used * ledger.size, cold * ledger.size


def _told(tree: Tree) -> dict[int, tuple[int, int]]:
    """Of each unit, how many run with it and how many hold it."""
    told: dict[int, tuple[int, int]] = {}
    children: Counter[Run] = Counter()
    for id, run in tree.first.items():
        assert id == run.ids[run.start] and run.start < run.end and (run.parent is None) == (run.start == 0)
        if run.parent is not None:
            children[run.parent] += 1
            assert run.parent.end == run.start and run.parent.holders >= run.holders
            assert run.parent.ids[run.start - 1] == run.ids[run.start - 1]
            assert tree.first[run.parent.ids[run.parent.start]] is run.parent
        assert (run.holders == 0) == (run in tree.idle)
        for at in range(run.start, run.end):
            assert run.ids[at] not in told
            told[run.ids[at]] = run.runners, run.holders
    assert all(run.children == children[run] for run in tree.first.values())
    assert tree.idle_units == len(tree.idle_ids())
    return told


def _held(ledger: Ledger, jobs: Iterable[Job], *places: str) -> int:
    return sum(ledger.held(job) for job in jobs if job.place.value in places)


def _blocks(copies: Iterable[Copy], out: bool) -> int:
    return sum(copy.blocks for copy in copies if copy.out is out)
