"""Where KV lives that no running job needs at once: three strategies over one ledger.

The KV of a job that left stays parked on the device while the next iteration does not need the room. Then it leaves
coldest first: it is forgotten (recompute), or copied to the host while the step waits (reactive), or copied out ahead
of need and fetched back ahead of need, beside the running iterations (proactive; FastServe's section on KV management).
Where the host has no room, parked KV is forgotten. Nothing is ever lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import ClassVar

from fastserve.sched.eviction import Order
from fastserve.sched.job import COMING, HOST, Copy, Job
from fastserve.sched.kv import Ledger
from fastserve.sched.plan import Moves
from fastserve.sched.ranking import Ranking


class Residency:
    """Recompute: KV that must leave the device is forgotten.

    order: who leaves first. reserve: blocks to keep idle for arrivals. quota: how many of the best waiting jobs are
    looked at for prefetching.
    """

    name: ClassVar[str] = "recompute"
    swaps: ClassVar[bool] = False  # does evicted KV go to the host?
    displaces: ClassVar[bool] = True  # may a running job lose its place for another one while memory is short?

    ledger: Ledger
    ranking: Ranking

    def __init__(self, order: Order, reserve: int, quota: int) -> None:
        self.order = order
        self.reserve = reserve
        self.quota = quota
        self.moves: Moves | None = None  # what make_room() found; None if nothing moves

    def bind(self, ledger: Ledger, ranking: Ranking, running: Sized) -> None:
        """To one Scheduler's books."""
        self.ledger = ledger
        self.ranking = ranking

    def check(self, slots: int) -> None:
        """Raises ValueError if it cannot serve a batch of so many slots."""

    def make_room(self, joined: Sequence[Job], left: Sequence[Job], free: int) -> int:
        """What has to move when these jobs join and leave: see `moves`.

        free: device blocks that the members and the parked KV leave over; below 0, some of that must go. Returns by how
        many blocks the members may grow before this would answer otherwise.
        """
        moves = Moves()
        free = self._fill(moves, joined, left, free + self.ledger.saved)
        moving = bool(moves.load or moves.clear or moves.park or moves.drop or moves.prefetch)
        self.moves = moves if moving else None
        return free

    def _fill(self, moves: Moves, joined: Sequence[Job], left: Sequence[Job], free: int) -> int:
        ledger = self.ledger
        for job in joined:
            if job.place is HOST:
                moves.load.append(Copy(job, ledger.missing(job), False))
            elif job.place is COMING:
                assert job.copy is not None
                moves.load.append(job.copy)
        for job in left:
            if not job.rolling:  # in the middle of its prefill
                free += ledger.release(job)
                moves.drop.append(job)
        host = ledger.host - ledger.hosted if self.swaps else 0
        if free < 0:
            free, host = self._evict(moves, joined, left, free, host)
        return self._ahead(moves, joined, left, free, host)

    def _ahead(self, moves: Moves, joined: Sequence[Job], left: Sequence[Job], free: int, host: int) -> int:
        """What need not be done yet. Returns what make_room() does."""
        return free

    def _evict(self, moves: Moves, joined: Sequence[Job], left: Sequence[Job], free: int, host: int) -> tuple[int, int]:
        """The step needs the room: it waits for copies out, then parked KV goes, then prefetches give way; and then it
        waits for those copies of units that have kept room only because others kept it, too.
        """
        ledger = self.ledger
        for copy in ledger.copies:
            if copy.out and not copy.orphan and copy.job not in joined:
                if copy.units is not None and not ledger.alone(copy.job):
                    continue  # others hold all that it does
                moves.clear.append(copy)
                free += ledger.release(copy.job)
                if free >= 0:
                    return free, host
        parked = [job for job in ledger.parked if job not in joined]
        parked += [job for job in left if job.rolling]
        for job in self._coldest(parked):
            held = ledger.held(job)
            free += ledger.release(job)
            if held <= host:
                host -= held
                copy = Copy(job, held, True)
                moves.park.append(copy)
                moves.clear.append(copy)
            else:
                moves.drop.append(job)
            if free >= 0:
                return free, host
        for copy in ledger.copies:
            if not copy.out and copy not in moves.load:
                moves.clear.append(copy)
                free += copy.blocks if copy.orphan else ledger.release(copy.job)
                if free >= 0:
                    return free, host
        for copy in ledger.copies:
            if copy.units is not None and copy not in moves.clear:
                moves.clear.append(copy)
                free += ledger.release(copy.job)
                if free >= 0:
                    return free, host
        raise RuntimeError("the running jobs need more blocks than the device has; this is a bug in the Scheduler")

    def _coldest(self, parked: list[Job]) -> Iterable[Job]:
        return parked if len(parked) < 2 else self.order.coldest(parked, self.ranking)


class Rows(Residency):
    """Recompute, and at most so many jobs, running ones included, have KV on the device: the coldest is forgotten."""

    running: Sized

    def __init__(self, order: Order, rows: int) -> None:
        super().__init__(order, 0, 0)
        self.rows = rows

    def bind(self, ledger: Ledger, ranking: Ranking, running: Sized) -> None:
        super().bind(ledger, ranking, running)
        self.running = running

    def check(self, slots: int) -> None:
        if slots > self.rows:
            raise ValueError(
                f"a batch cap of {slots}, and KV of at most {self.rows} jobs may be on the device (max_resident); "
                f"give at most as many"
            )

    def _ahead(self, moves: Moves, joined: Sequence[Job], left: Sequence[Job], free: int, host: int) -> int:
        parked = [job for job in [*self.ledger.parked, *left] if not (job in joined or job in moves.drop)]
        over = len(self.running) + len(joined) - len(left) + len(parked) - self.rows
        for job in self._coldest(parked) if over > 0 else ():
            free += self.ledger.release(job)
            moves.drop.append(job)
            over -= 1
            if over == 0:
                break
        return free


class Reactive(Residency):
    """It is copied to the host while the step waits."""

    name: ClassVar[str] = "reactive"
    swaps: ClassVar[bool] = True


class Proactive(Reactive):
    """It is copied out, and fetched back, ahead of need and beside the running iterations."""

    name: ClassVar[str] = "proactive"

    def _ahead(self, moves: Moves, joined: Sequence[Job], left: Sequence[Job], free: int, host: int) -> int:
        ledger = self.ledger
        leaving = self._leaving(moves, joined) if ledger.leaving else 0
        soon = free + leaving
        if soon < self.reserve:
            soon, host = self._park_ahead(moves, joined, left, soon, host)
        elif ledger.away and not moves.park:
            free -= self._prefetch(moves, joined, free - self.reserve)
            soon = free + leaving
        if soon >= self.reserve and (ledger.parked or left):
            return min(free, soon - self.reserve)
        return free

    def _leaving(self, moves: Moves, joined: Sequence[Job]) -> int:
        """Blocks that copies out will free by themselves."""
        ledger = self.ledger
        soon = 0
        for copy in ledger.copies:
            if copy.out and not copy.orphan and copy not in moves.clear and copy.job not in joined:
                soon += ledger.alone(copy.job)
        return soon

    def _park_ahead(
        self, moves: Moves, joined: Sequence[Job], left: Sequence[Job], soon: int, host: int
    ) -> tuple[int, int]:
        ledger = self.ledger
        if host < 1:
            return soon, host
        gone = {copy.job for copy in moves.park}
        gone.update(moves.drop)
        gone.update(joined)
        parked = [job for job in ledger.parked if job not in gone]
        parked += [job for job in left if job not in gone]
        if not parked:
            return soon, host
        for job in self._coldest(parked):
            held = ledger.held(job)
            if held <= host:
                host -= held
                soon += ledger.alone(job)
                moves.park.append(Copy(job, held, True))
                if soon >= self.reserve:
                    break
        return soon, host

    def _prefetch(self, moves: Moves, joined: Sequence[Job], spare: int) -> int:
        """The best waiting jobs come back while there is room beyond the reserve. Returns the blocks taken."""
        ledger = self.ledger
        taken = 0
        looked = 0
        for _, _, _, job in self.ranking.queue():
            if looked == self.quota or spare <= taken:
                break
            if job in joined:
                continue
            looked += 1
            if job.place is HOST:
                blocks = ledger.fetch(job, spare - taken)
                if blocks < 0:
                    break
                moves.prefetch.append(Copy(job, ledger.missing(job), False))
                taken += blocks
        return taken


class Defer(Residency):
    """Running jobs are not displaced while memory is short; what outgrows the device is forgotten."""

    name: ClassVar[str] = "defer"
    displaces: ClassVar[bool] = False


RESIDENCIES: dict[str, type[Residency]] = {cls.name: cls for cls in (Residency, Reactive, Proactive, Defer)}
