"""Who is in the next batch: the running jobs that no longer fit leave, then the best waiting jobs join."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from fastserve.sched.batching import Batching
from fastserve.sched.draft import Draft
from fastserve.sched.errors import PolicyError
from fastserve.sched.holding import Holding
from fastserve.sched.job import NEVER, NOWHERE, Job, Meter
from fastserve.sched.kv import Ledger
from fastserve.sched.policy import Machine
from fastserve.sched.ranking import Entry, Ranking
from fastserve.sched.residency import Residency

NOBODY: tuple[Job, ...] = ()


class CopyingMachine(Machine, Protocol):
    """What the Scheduler itself must know about the machine, beside what it hands on to the policy."""

    def return_ns(self, blocks: int) -> int: ...  # copying so many blocks out and in again


class Chooser:
    """choose() fills its attributes anew and changes nothing else, but for the freshness of stored ranks.

    visit: the visit guard, in returns; 0 disables. prefill_guard: a job that needs a prefill waits while less than this
    share of the host pool is free. skip_misfits: a waiting job that does not fit is passed over and closes nothing.
    """

    def __init__(
        self,
        machine: CopyingMachine,
        meter: Meter,
        live: dict[Job, None],
        running: dict[Job, None],
        ranking: Ranking,
        ledger: Ledger,
        batching: Batching,
        residency: Residency,
        draft: Draft | None,
        holding: Holding,
        *,
        slots: int,
        visit: int,
        prefill_guard: float,
        skip_misfits: bool,
    ) -> None:
        self.machine = machine
        self.meter = meter
        self.live = live
        self.running = running
        self.ranking = ranking
        self.ledger = ledger
        self.draft = draft  # where blocks are shared: by how much the sums here are too high
        self.holding = holding
        self.held = holding.jobs
        self.batching = batching
        self.gated = batching.gated
        self.swaps = residency.swaps
        self.slots = slots
        self.bounded = ledger.blocks < NEVER
        self.visit = visit if residency.displaces else NEVER
        self.guarding = self.visit > 0 and self.bounded
        self.host_floor = round(ledger.host * prefill_guard) if ledger.host < NEVER else 0
        self.skip_misfits = skip_misfits
        self.skips = skip_misfits  # or may somebody wait for whom the whole pool has become too small?
        # What choose() says.
        self.joined: Sequence[Job] = NOBODY
        self.left: Sequence[Job] = NOBODY
        self.room = 0  # device blocks left over by the members, parked KV not counted
        self.parked = 0  # where anybody joins or leaves: blocks of KV that would be parked beyond ledger.cold
        self.hold = 0  # meter.service until which the visit guard keeps the batch as it is; 0: it does not
        self.steady = True  # would it say the same at the next boundary if nothing happens until then?
        # What it works with: ranking.run[top:] leave; -1 until the order of those who run matters.
        self._top = -1
        self._places = 0

    def choose(self, now: int, hold: int) -> None:
        """hold: meter.service until which an earlier choice of the guard stands.

        The choice is not steady when memory made somebody leave (as a waiting job it has another rank), or keeps out
        the first of a queue that reorders itself.
        """
        ledger = self.ledger
        ranking = self.ranking
        self.room = room = ledger.blocks - ledger.used
        self.hold = hold if hold and hold > self.meter.service else 0
        waiting = len(self.live) - len(self.running)
        if ranking.lazy and waiting == 0 and room >= 0:
            self.joined = self.left = NOBODY
            self.steady = True
            return
        self.holding.fixed = True
        try:
            if ranking.dirty or not ranking.settled:
                ranking.refresh()
            self._top = -1 if ranking.lazy else self._line_up()
            self._places = self.slots - len(self.running)
            self.parked = 0
            left: list[Job] = []
            joined: list[Job] = []
            self.left = left
            self.joined = joined
            if room < 0:
                self._top = self._line_up()
                self._shed(left)
                if self.room < 0:
                    self._shed_safe(left)
                    self.hold = 0
                    self.steady = False
                    return
            closed = False
            if self.hold:
                if left:
                    self.hold = 0
            elif self.held:
                closed = self._admit_unheld(now, left, joined, waiting - len(self.held))
            elif (ranking.wait or ranking.own_queue) and (
                not self.gated or self._opens(now, waiting, next(iter(self.live)).arrival)
            ):
                closed = self._admit(left, joined, ranking.queue(waiting))
            self.steady = self._places <= 0 or (not left and not (closed and ranking.own_queue))
        finally:
            self.holding.fixed = False

    def _line_up(self) -> int:
        """Brings the order of those who run up to date. Returns how many may be displaced."""
        self.ranking.refresh_run()
        return len(self.ranking.run)

    def _shed(self, left: list[Job]) -> None:
        """The running jobs have outgrown the device: the weakest leave."""
        ranking = self.ranking
        while self.room < 0 and self._top > 0:
            if ranking.improve(self._top):
                continue
            self._top -= 1
            self._out(ranking.run[self._top][3], left)

    def _shed_safe(self, left: list[Job]) -> None:
        """The pool has become so small that those do not fit whose place is safe: of them, too, the weakest leave."""
        safe = [job for job in self.running if job.fresh or not job.rolling]
        for job in reversed(self.ranking.best_first(safe)):
            if self.room >= 0:
                return
            self._out(job, left)

    def _out(self, job: Job, left: list[Job]) -> None:
        left.append(job)
        self.parked += self.ledger.held(job)
        self.room += self.ledger.need(job)
        self._places += 1
        if self.draft is not None:
            self.room -= self.draft.leave(job)

    def _admit(self, left: list[Job], joined: list[Job], waiting: Iterable[Entry]) -> bool:
        """The best waiting jobs join, each displacing the weakest running ones that it strictly beats.

        Returns whether one that could not has kept out those behind it.
        """
        ledger = self.ledger
        ranking = self.ranking
        run = ranking.run
        draft = self.draft
        closed = False
        for entry in waiting:
            rank = entry[0]
            job = entry[3]
            if self.host_floor and self._set_aside(job, joined):
                continue
            top = self._top
            if left and not self._beats(rank, run[top], job):
                return True  # nobody takes the place of a better one that had to leave
            need = ledger.need(job)
            places = self._places
            room = self.room
            if draft is not None and (places <= 0 or room < need):
                draft.mark()
                if places > 0:
                    need -= draft.used(job)
            if top < 0 and (places <= 0 or room < need):
                top = self._top = self._line_up()
            t = top
            while places <= 0 or room < need:
                if t == 0 or not self._beats(rank, run[t - 1], job):
                    break
                if ranking.improve(t):
                    continue
                t -= 1
                places += 1
                room += ledger.need(run[t][3])
                if draft is not None:
                    room -= draft.leave(run[t][3])
                    need = ledger.need(job) - draft.used(job)
            else:
                if draft is not None:
                    need = ledger.need(job) - draft.used(job)
                if t < top or job.place is not NOWHERE:
                    parked = self._parked(t, top, job)
                    if t < top and self.guarding and self._short(room - need, parked, job) and self._guarded(t, top):
                        if draft is not None:
                            draft.undo()
                        return True
                    self.parked = parked
                    self._top = t
                    while top > t:
                        top -= 1
                        left.append(run[top][3])
                if draft is not None:
                    draft.join(job)
                joined.append(job)
                self._places = places - 1
                self.room = room - need
                closed = False
                continue
            if draft is not None:
                draft.undo()
                if places > 0:
                    draft.misfits.append(job)
            if self.skips and places > 0 and (self.skip_misfits or ledger.need(job) > ledger.blocks):
                closed = True
                continue
            return True
        return closed

    def _admit_unheld(self, now: int, left: list[Job], joined: list[Job], waiting: int) -> bool:
        """The same where jobs are held back. waiting: the others. Where all are held, see Holding.first()."""
        ranking = self.ranking
        if not waiting and not self.running:
            first = self.holding.first()
            if first is not None and self._opens(now, 1, first.arrival):
                self._admit(left, joined, (ranking.entry_of(first),))
            return False
        if (ranking.wait or ranking.own_queue) and (not self.gated or self._opens(now, waiting, self.holding.oldest())):
            return self._admit(left, joined, ranking.queue(waiting))
        return False

    def _beats(self, rank: Any, entry: Entry, job: Job) -> bool:
        try:
            return bool(rank < entry[0])
        except (Exception, SystemExit) as error:
            message = f"ranks {rank!r} and {entry[0]!r} cannot be compared ({error}); return one kind of value"
            raise PolicyError(self.ranking.policy, "rank", job, message) from error

    def _opens(self, now: int, waiting: int, oldest: int) -> bool:
        return self.batching.may_join(now, len(self.running), self.slots, waiting, oldest)

    def _set_aside(self, job: Job, joined: list[Job]) -> bool:
        """Does the prefill guard keep it waiting? Never when nobody else would run."""
        if job.place is not NOWHERE or not (self.running or joined):
            return False
        return self.ledger.host - self.ledger.hosted < self.host_floor

    def _parked(self, t: int, top: int, job: Job) -> int:
        """What `parked` comes to if this job joins and run[t:top] leave. Of an unbounded pool nobody asks."""
        ledger = self.ledger
        parked = self.parked
        if self.bounded:
            if job.place is not NOWHERE and job not in ledger.away:
                parked -= ledger.held(job)
            for i in range(t, top):
                parked += ledger.held(self.ranking.run[i][3])
        return parked

    def _short(self, room: int, parked: int, job: Job) -> bool:
        """Would parked KV have to go if this job joined?"""
        if self.draft is not None:
            parked -= self.ledger.saved + self.draft.saving(job)
        return room < self.ledger.cold + parked

    def _guarded(self, t: int, top: int) -> bool:
        """Does the visit guard protect anybody in run[t:top]? Then the batch holds until it ends."""
        until = 0
        for _, _, _, job in self.ranking.run[t:top]:
            until = max(until, job.joined_at + self.visit * self._return_ns(job))
        if until <= self.meter.service:
            return False
        self.hold = until
        return True

    def _return_ns(self, job: Job) -> int:
        """ns: what coming back would cost a running job: copies both ways, or a prefill where the host has no room."""
        ledger = self.ledger
        held = ledger.held(job)
        if self.swaps and held <= ledger.host - ledger.hosted:
            return self.machine.return_ns(held)
        return self.machine.prefill_ns(job.prompt + job.generated)
