"""Draft: what the ledger would say of shared units if the plan that is being made were carried out. Changes no books.

A unit counts once however many hold it, so what a job takes or gives back depends on who else is in the plan. The
choice and the residency reckon as if nothing were shared, and the draft says by how much that is too much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastserve.sched.host_tier import HostTier
from fastserve.sched.job import HOST, NOWHERE, Job
from fastserve.sched.kv import Ledger
from fastserve.sched.units import Ids, Range, Run, Tree, common

Change = tuple[int, Ids, int, int, int]  # the first id (of none: 0), ids, how many of them; runners, holders more


class Draft:
    """size: blocks of a unit. begin() forgets the last plan."""

    __slots__ = (
        "_changes", "_freed", "_heads", "_idle", "_mark", "_paths", "_saved", "found", "ledger", "loads", "misfits",
        "size", "tier", "tree", "units",
    )  # fmt: skip

    def __init__(self, ledger: Ledger, tree: Tree, size: int, tier: HostTier | None) -> None:
        self.ledger = ledger
        self.tree = tree
        self.size = size
        self.tier = tier
        self.units: dict[Job, int] = {}  # that a waiting job would find on the device
        self.loads: dict[Job, int] = {}  # the same with those that it would load, where there are any
        self.found: dict[Job, int] = {}  # all these in tokens, where there are any
        self.misfits: list[Job] = []  # whom memory alone keeps out, or keeps from being fetched
        self._idle = 0  # units that would be idle
        self._freed = 0  # blocks of parked KV that goes, less those of what is fetched
        self._mark = 0
        self._saved = 0
        self._paths: dict[Job, list[Run]] = {}
        self._changes: list[Change] = []
        self._heads: dict[int, int] = {}  # first id of a path -> how many changes there are on such paths

    def begin(self) -> None:
        self.ledger.saved = 0
        self._idle = self.tree.idle_units
        self._freed = 0
        if self.units:
            self.units.clear()
            self.found.clear()
            self.loads.clear()
            self.misfits.clear()
        if self._changes:  # of jobs without a unit, too, which have no path
            self._changes.clear()
            self._heads.clear()
            self._paths.clear()
        elif self._paths:
            self._paths.clear()

    # -- who is in the batch ---------------------------------------------------------------------------------------

    def shared(self, job: Job) -> int:
        """Units that it holds, or would hold if it joined; at least its newest token is always left to compute."""
        n = self.units.get(job, -1)
        if n < 0:
            if job.running or not (job.place is NOWHERE or job.place is HOST):
                return job.shared
            ids = job.ids
            if ids and ids[0] in self.tree.first:
                self._paths[job], n = self.tree.walk(ids, self.tree.whole(ids, job.prompt + job.tokens_base - 1))
            else:
                n = 0
            self.units[job] = n
            there = n
            if self.tier is not None and ids and job.place is NOWHERE:
                there = self.tier.reach(ids, n, self.tree.whole(ids, job.prompt + job.tokens_base - 1))
                if there > n:
                    self.loads[job] = there
            if there:
                self.found[job] = there * self.tree.unit
        return n

    def used(self, job: Job) -> int:
        """Blocks of a waiting job that members use already."""
        n = self.shared(job)
        return self.size * self._with(job, n, 1, True) if n else 0

    def leave(self, job: Job) -> int:
        """A running job would be parked. Returns the blocks of it that other members use too."""
        others = self.size * self._with(job, job.shared, 2, True)
        self.ledger.saved += others
        self._change(job, job.shared, -1, 0)
        return others

    def saving(self, job: Job) -> int:
        """What join() would add to ledger.saved."""
        n = self.shared(job)
        running = self._with(job, n, 1, True)
        if job.place is NOWHERE or job.place is HOST:
            return self.size * (self._with(job, n, 1, False) - running)
        return -self.size * running

    def join(self, job: Job) -> None:
        """A waiting job would run."""
        self.ledger.saved += self.saving(job)
        n = self.shared(job)
        if job.place is NOWHERE or job.place is HOST:
            self._idle -= n - self._with(job, n, 1, False)
            self._change(job, n, 1, 1)
        else:
            self._change(job, n, 1, 0)

    def mark(self) -> None:
        """undo() goes back to here, over any number of leave()."""
        self._mark = len(self._changes)
        self._saved = self.ledger.saved

    def undo(self) -> None:
        heads = self._heads
        for change in self._changes[self._mark :]:
            heads[change[0]] -= 1
        del self._changes[self._mark :]
        self.ledger.saved = self._saved

    def unsteady(self, job: Job) -> bool:
        """Does a lone prefill give room, chunk by chunk? A copy of what is there already is freed, and what it computes
        for the first time may be what a misfit lacks.
        """
        ids = job.ids
        n = self.shared(job)
        if n < len(ids) and self.tree.walk(ids, n + 1)[1] > n:
            return True
        for other in self.misfits:
            at = self.shared(other)
            if n <= at < min(len(ids), len(other.ids)) and ids[at] == other.ids[at]:
                return True
        return False

    # -- where KV lives: as Ledger's, which see --------------------------------------------------------------------

    def missing(self, job: Job) -> int:
        return self.ledger.held(job) - self.size * self.shared(job)

    def alone(self, job: Job) -> int:
        return self.ledger.held(job) - self.size * self._with(job, job.shared, 2, False)

    def release(self, job: Job) -> int:
        others = self._with(job, job.shared, 2, False)
        self._idle += job.shared - others
        self._change(job, job.shared, 0, -1)
        freed = self.ledger.held(job) - self.size * others
        self._freed += freed
        return freed

    def fetch(self, job: Job, most: int) -> int:
        n = self.shared(job)
        held = self._with(job, n, 1, False)
        taken = self.ledger.held(job) - self.size * held
        if taken > most:
            self.misfits.append(job)
            return -1
        self._idle -= n - held
        self._change(job, n, 0, 1)
        self._freed -= taken
        return taken

    def evicted(self, gone: Sequence[Job], free: int) -> list[Range]:
        """The idle units that must go for the step. gone: whose KV goes for it, in order.

        free: device blocks beside the members and what the choice left cold, the idle ones included.
        """
        size = self.size
        more = -(-(self._idle * size - free - self._freed - self.ledger.saved) // size)
        going: list[Range] = []
        if more <= 0:
            return going
        holds = [(ids, n) for _, ids, n, _, held in self._changes if held > 0 and n]
        if self.tree.pins.of:
            return self._evicted_in_order(gone, more, holds)
        for run in self.tree.idle:
            low = _kept(run.ids, run.start, run.end, holds)
            if low < run.end:
                low = max(low, run.end - more)
                going.append((run.ids, low, run.end))
                more -= run.end - low
                if more == 0:
                    return going
        later = [(job.ids, job.shared) for job in gone if job.shared]  # still held when those before them go
        for job in gone:
            if not job.shared:
                continue
            later.pop(0)
            low = _kept(job.ids, self._with(job, job.shared, 1, False), job.shared, later)
            if low < job.shared:
                low = max(low, job.shared - more)
                going.append((job.ids, low, job.shared))
                more -= job.shared - low
                if more == 0:
                    break
        return going

    def _evicted_in_order(self, gone: Sequence[Job], more: int, holds: list[tuple[Ids, int]]) -> list[Range]:
        """The same where something is kept."""
        parts: dict[Run, tuple[int, int]] = {}
        going: list[Range] = []
        for run in self.tree.in_order(self._going(gone, holds, parts)):
            start, end = parts[run]
            start = max(start, end - more)
            going.append((run.ids, start, end))
            more -= end - start
            if more == 0:
                break
        return going

    def _going(
        self, gone: Sequence[Job], holds: list[tuple[Ids, int]], parts: dict[Run, tuple[int, int]]
    ) -> Iterator[tuple[Run, str]]:
        """What may go, as it is let go, with its program. parts: filled with the units of each."""
        for run in self.tree.idle:
            low = _kept(run.ids, run.start, run.end, holds)
            if low < run.end:
                parts[run] = low, run.end
                yield run, run.owner
        later = [(job.ids, job.shared) for job in gone if job.shared]
        for job in gone:
            if not job.shared:
                continue
            later.pop(0)
            low = _kept(job.ids, self._with(job, job.shared, 1, False), job.shared, later)
            for run in reversed(self._path(job)):
                start = max(low, run.start)
                end = min(job.shared, run.end)
                if start < end:
                    parts[run] = start, end
                    yield run, job.program

    # -- who holds what, with the changes --------------------------------------------------------------------------

    def _change(self, job: Job, n: int, runners: int, holders: int) -> None:
        """undo() counts on one a call."""
        ids = job.ids
        head = ids[0] if n else 0
        self._heads[head] = self._heads.get(head, 0) + 1
        self._changes.append((head, ids, n, runners, holders))

    def _path(self, job: Job) -> list[Run]:
        path = self._paths.get(job)
        if path is None:
            path = []
            run = job.tail
            while run is not None:
                path.append(run)
                run = run.parent
            path.reverse()
            self._paths[job] = path
        return path

    def _with(self, job: Job, upto: int, least: int, running: bool) -> int:
        """How many of its units up to `upto` at least so many jobs run with, or hold; this falls along a path."""
        if upto == 0:
            return 0
        path = self._path(job)
        best = at = 0
        marks: list[tuple[int, int]] = []
        mine = job.ids
        first = mine[0]
        if self._heads.get(first):
            for head, ids, n, runners, holders in self._changes:
                if head == first and n:  # else they share nothing
                    by = runners if running else holders
                    if by:
                        marks.append((common(ids, mine, 0, min(n, upto)), by))
        if not marks:
            for run in path:
                if (run.runners if running else run.holders) < least:
                    break
                best = run.end
            return min(best, upto)
        ends = sorted({min(run.end, upto) for run in path} | {end for end, _ in marks if end})
        for end in ends:
            while path[at].end < end:
                at += 1
            count = path[at].runners if running else path[at].holders
            if count + sum([by for upper, by in marks if upper >= end]) < least:
                break
            best = end
        return best


def _kept(ids: Ids, low: int, high: int, paths: list[tuple[Ids, int]]) -> int:
    """Of the units ids[low:high], those before the one returned are on one of these paths, of so many units each."""
    for others, n in paths:
        if others[0] == ids[0]:
            low = max(low, common(others, ids, 0, min(n, high)))
    return low
