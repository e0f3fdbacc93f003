"""Replica: one server of a cluster, a Scheduler with its own policy, machine, link, pools and records."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from heapq import heappush
from typing import Any

from fastserve.metrics.records import Recorder
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import NEVER, Job, age
from fastserve.sched.plan import Outcome, Plan, Transfer
from fastserve.sched.scheduler import Scheduler
from sim.cluster.books import Books, Moment
from sim.cluster.inbox import ReplicaInbox
from sim.driver import Driver
from sim.link import Link
from sim.machine import ModelledMachine


class Replica(Driver):
    """From its start, or its return, until it fails. number: its place among the replicas. ends: of all replicas, ns:
    when what each does now is over; NEVER for one with nothing to do. It writes its own. gone: told of each job that is
    over here, and when.

    A plan is run at once as far as it goes, though who comes meanwhile is not known: what a replica does until then
    depends on nobody else. Where the router sends somebody here before that end, cut() brings it forward to the first
    boundary at which the Scheduler can look, as if the machine had known.
    """

    def __init__(
        self,
        number: int,
        scheduler: Scheduler,
        machine: ModelledMachine,
        link: Link,
        inbox: ReplicaInbox,
        recorder: Recorder,
        ends: list[int],
        gone: Callable[[Replica, Job, int], object],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scheduler, machine, link, inbox, recorder, about)
        self.number = number
        self.box = inbox
        inbox.gone = lambda job, now: gone(self, job, now)
        self.ends = ends
        self.opens = NEVER  # while it is idle: when to ask the Scheduler again though nobody comes
        self.plan: Plan | None = None  # under way, with what comes of it
        self.outcome: Outcome | None = None
        self.was: tuple[int, int, tuple[Transfer, ...]] = (0, 0, ())  # before it: the machine's clock, copies under way
        self.limit = NEVER  # ns: it ends at the first boundary at or after this
        self.looked_at = False
        self.books: Books | None = None  # None: nobody has asked for what is in them
        self.moments: deque[Moment] = deque()  # in order of time; only the last one, unless views are old
        self.remembers = False  # views are old: every moment is kept until it is older than all that is asked for
        self.busy = 0  # ns in which it ran, stalls included
        self.ready = False  # at a boundary: what it does next is not decided yet
        self.dead = False

    def deliver(self, job: Job, now: int, due: int) -> None:
        """The router has sent it a job, which is there at `due` (ns)."""
        box = self.box
        heappush(box.box, (due, job.arrival, job.id, job))
        if due < box.at:
            box.at = due
        if due < self.ends[self.number]:
            outcome = self.outcome
            if outcome is None or outcome.iterations > 1:  # else it cannot end earlier
                self._cut(due)
        if self.books is not None:
            self._changed(now)

    def tell(self, program: str, now: int) -> None:
        """Nothing of this program is left; it is told at its next boundary."""
        self.box.end(program)
        if now < self.ends[self.number]:
            self._cut(now)

    def _cut(self, at: int) -> None:
        """Somebody comes at `at` (ns), before what it does now is over."""
        plan, outcome = self.plan, self.outcome
        if plan is None or outcome is None:
            if not self.ready:
                self.ends[self.number] = at
        elif outcome.iterations > 1:
            self._again(plan, outcome, at)

    def _again(self, plan: Plan, outcome: Outcome, at: int) -> None:
        began, rest, moving = self.was
        if outcome.copied:
            self.link.moving.clear()
            self.link.moving.extend(moving)
        inbox = self.inbox
        known = inbox.at
        inbox.at = self.limit = min(self.limit, at)
        self._ran(plan, self.machine.again(plan, outcome, began, rest))
        inbox.at = known

    def _ran(self, plan: Plan, outcome: Outcome) -> None:
        self.outcome = outcome
        self.ends[self.number] = plan.now + outcome.stall + outcome.service

    def finish(self, now: int) -> None:
        """It is at a boundary."""
        plan, outcome = self.plan, self.outcome
        self.ready = True
        self.ends[self.number] = NEVER
        if plan is None or outcome is None:
            if self.opens <= now:
                self.opens = NEVER
                self.tick(now)
            return
        self.plan = self.outcome = None
        self.busy += outcome.stall + outcome.service
        observers = self.observers
        try:
            finished = self.scheduler.commit(plan, outcome, now)
        except PolicyError:
            observers.last("committed", plan, outcome, (), now)
            raise
        self.recorder.committed(plan, outcome, finished, now)
        if self.looked_at:
            observers.committed(plan, outcome, finished, now)
        if self.books is not None:
            self._booked(plan, outcome, finished)
        if finished:
            box = self.box
            for job in finished:
                box.left(job, now)

    def begin(self, now: int) -> None:
        """Everybody who has come by now is known: what it does next."""
        scheduler = self.scheduler
        observers = self.observers
        plan = scheduler.plan(now)
        self.ready = False
        if plan is None:
            self.opens = opens = scheduler.opens_at()
            if observers.members and scheduler.live:
                observers.idle(now)
            self.ends[self.number] = max(now, min(opens, self.inbox.at))
            if self.books is not None:
                self._changed(now)
            return
        self.looked_at = bool(observers.members)
        if self.looked_at:
            self.planned_at = now
            observers.planned(plan, now)
        self.plan = plan
        self.limit = self.inbox.at
        if plan.iterations > 1 and self.books is not None and (plan.joined or plan.left):
            plan.iterations = 1  # who joins or leaves is on the books from its end on
        if plan.iterations > 1:
            machine, link = self.machine, self.link
            self.was = machine.at, machine.rest, tuple(link.moving) if link.moving else ()
        self._ran(plan, self.machine.run(plan))
        if self.books is not None:
            self._changed(now)

    # -- what a view of it tells -----------------------------------------------------------------------------------

    def drain(self, now: int) -> None:
        books = self.books
        if books is None:
            super().drain(now)
            return
        known = len(self.box.box)
        there = [entry[3] for entry in self.box.box if entry[0] <= now] if known else []
        gone = list(self.scheduler.gone)
        super().drain(now)
        books.touch(there)
        books.touch(job for job in self.scheduler.gone if job not in gone)
        self._changed(now)

    @property
    def running(self) -> int:
        """Who has a place, in the plan under way where there is one."""
        plan = self.plan
        return len(self.scheduler.running) + (0 if plan is None else len(plan.joined) - len(plan.left))

    @property
    def waiting(self) -> int:
        """All others who have been sent here."""
        return len(self.scheduler.live) + len(self.box.box) - self.running

    def moment(self, at: int) -> Moment:
        """As it was at this time (ns): the last one, or, where every moment is kept, any that is not older than those
        asked for before.
        """
        if self.books is None:
            self.books = Books(self.scheduler)
            self._changed(at)
        moments = self.moments
        if moments and not self.remembers:
            return moments[0]
        if not moments:
            moments.append(self._moment(at))
        while len(moments) > 1 and moments[1].at <= at:
            moments.popleft()
        return moments[0]

    def _moment(self, at: int) -> Moment:
        books, outcome = self.books, self.outcome
        assert books is not None
        plan = self.plan
        begun = self.was[1] if plan is not None and plan.now == self.was[0] else 0
        iterations = 0 if outcome is None else outcome.iterations
        return Moment(
            at, self.scheduler, books, self.box.box, plan, iterations, begun, self.machine.latency, self.remembers
        )

    def _changed(self, now: int) -> None:
        if self.remembers:
            self.moments.append(self._moment(now))
        else:
            self.moments.clear()

    def _booked(self, plan: Plan, outcome: Outcome, finished: list[Job]) -> None:
        """What a commit has done to jobs."""
        books = self.books
        assert books is not None
        if plan.batch:
            books.passed()
        if plan.joined or plan.left:
            books.touch(plan.joined)
            books.touch(plan.left)
        if plan.prefill:
            books.touch([job for job, _ in plan.prefill])
        if plan.moves is not None:
            books.touch(plan.moves.drop)
        if outcome.extra:
            books.touch([job for job, _ in outcome.extra])
        if finished:
            books.touch(finished)
        if not self.remembers:
            self.moments.clear()

    # -- its death -------------------------------------------------------------------------------------------------

    def fail(self, now: int) -> list[Job]:
        """It dies; returns the jobs that it has, as they were then, by (arrival, id). Iterations that had ended by now
        have yielded their tokens.
        """
        plan, outcome = self.plan, self.outcome
        if plan is not None and outcome is not None and outcome.iterations > 1:
            self._again(plan, outcome, now + 1)
            whole = self.outcome
            assert whole is not None
            plan.iterations = whole.iterations - 1
            if plan.iterations:
                self._again(plan, whole, NEVER)
                self.finish(self.ends[self.number])
        self.plan = self.outcome = None
        self.dead = True
        jobs = [*self.scheduler.live, *[entry[3] for entry in self.box.box]]
        return sorted(jobs, key=age)

    def end(self, job: Job, finish: str, now: int) -> None:
        """The client of a job that it had when it died is told so."""
        if job in self.scheduler.live:
            self.scheduler.cancel(job, now)
        job.finish = finish
        self.recorder.cancelled(job, now)
        if self.observers.members:
            self.observers.cancelled(job, now)
