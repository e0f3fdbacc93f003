"""SessionInbox: arrivals that depend on who has ended, and clients that give up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush

from fastserve.metrics.finish import COMPLETED
from fastserve.sched.job import NEVER, Job
from fastserve.workload.session import Sessions
from sim.inbox import Inbox


class FedInbox(Inbox):
    """One that is fed while the run goes on: its driver says what becomes of each job, and is told of programs that
    have ended.

    patience: ns without a first token after which a client gives up; None: never. What comes or is over because of an
    end is due at once, in the order of events of every driver.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.waits: list[tuple[int, int, Job]] = []  # (ns at which its client gives up, id, job), a heap
        self.now = 0
        self.over: list[str] = []  # programs of which nothing is left, until the Scheduler has been told
        self.first: Callable[[Job], int] = _never  # ns of a job's first token, -1 if there is none: the driver knows
        none: Iterator[Job] = iter(())
        super().__init__(none)

    def coming(self) -> int:
        """ns: when the next job comes; NEVER if none is known."""
        raise NotImplementedError

    def left(self, job: Job, now: int) -> None:
        """It is over, as job.finish says: what comes after it comes, or is abandoned."""
        raise NotImplementedError

    def _look(self) -> None:
        at = self.coming()
        waits = self.waits
        while waits and (waits[0][2].finish or (waits[0][0] > self.now and waits[0][2].generated)):
            heappop(waits)
        if waits and waits[0][0] < at:
            at = waits[0][0]
        self.at = 0 if self.over else at

    def cancelled(self, now: int) -> list[Job]:
        """Takes out the jobs whose clients have given up by now, by (arrival, id): a token that comes later than that,
        with the iteration that is under way, finds nobody.
        """
        gone: list[Job] = []
        while self.waits and self.waits[0][0] <= now:
            at, _, job = heappop(self.waits)
            if not job.finish and not 0 <= self.first(job) <= at:
                gone.append(job)
        self._look()
        return sorted(gone, key=lambda job: (job.arrival, job.id))

    def ended(self) -> list[str]:
        """Takes out the programs of which nothing is left."""
        over, self.over = self.over, []
        self._look()
        return over


class SessionInbox(FedInbox):
    """Arrivals of programs. make: (row, ns) to the job that the row is when it comes then."""

    def __init__(self, make: Callable[[int, int], Job], sessions: Sessions, patience: int | None = None) -> None:
        self.make = make
        self.sessions = sessions
        self.due: list[tuple[int, int]] = []  # (ns, row): a heap
        super().__init__(patience)
        self._feed(sessions.begin())

    def _feed(self, arrivals: Iterable[tuple[int, int]]) -> None:
        for row, at in arrivals:
            heappush(self.due, (at, row))
        self._look()

    def coming(self) -> int:
        return self.due[0][0] if self.due else NEVER

    def arrived(self, now: int) -> list[Job]:
        came: list[Job] = []
        self.now = now
        while self.due and self.due[0][0] <= now:
            at, row = heappop(self.due)
            job = self.make(row, at)
            came.append(job)
            if self.patience is not None:
                heappush(self.waits, (at + self.patience, row, job))
        self._look()
        return came

    def left(self, job: Job, now: int) -> None:
        self.now = now
        sessions = self.sessions
        come = sessions.ended(job.id, now, job.finish in COMPLETED)
        if job.program and sessions.is_last(job.id):
            self.over.append(job.program)
        self._feed(come)


def _never(job: Job) -> int:
    return -1
