"""SessionInbox: arrivals that depend on who has ended, and clients that give up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from fastserve.metrics.finish import COMPLETED
from fastserve.sched.job import NEVER, Job
from fastserve.workload.session import Sessions
from sim.inbox import Inbox


class SessionInbox(Inbox):
    """An Inbox that is fed while the run goes on. make: (row, ns) to the job that the row is when it comes then.

    patience: ns without a first token after which a client gives up; None: never. The driver says what becomes of each
    job; what comes or is over because of it is due at once, in the order of events of every driver.
    """

    def __init__(self, make: Callable[[int, int], Job], sessions: Sessions, patience: int | None = None) -> None:
        self.make = make
        self.sessions = sessions
        self.patience = patience
        self.due: list[tuple[int, int]] = []  # (ns, row): a heap
        self.waits: list[tuple[int, int, Job]] = []  # (ns at which its client gives up, id, job), a heap
        self.now = 0
        self.over: list[str] = []  # programs of which nothing is left, until the Scheduler has been told
        self.first: Callable[[Job], int] = _never  # ns of a job's first token, -1 if there is none: the World knows
        super().__init__(iter(()))
        self._feed(sessions.begin())

    def _feed(self, arrivals: Iterable[tuple[int, int]]) -> None:
        for row, at in arrivals:
            heappush(self.due, (at, row))
        self._look()

    def _look(self) -> None:
        at = self.due[0][0] if self.due else NEVER
        waits = self.waits
        while waits and (waits[0][2].finish or (waits[0][0] > self.now and waits[0][2].generated)):
            heappop(waits)
        if waits and waits[0][0] < at:
            at = waits[0][0]
        self.at = 0 if self.over else at

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

    def left(self, job: Job, now: int) -> None:
        """It is over, as job.finish says: what comes after it comes, or is abandoned."""
        self.now = now
        sessions = self.sessions
        come = sessions.ended(job.id, now, job.finish in COMPLETED)
        if job.program and sessions.is_last(job.id):
            self.over.append(job.program)
        self._feed(come)

    def ended(self) -> list[str]:
        """Takes out the programs of which nothing is left."""
        over, self.over = self.over, []
        self._look()
        return over


def _never(job: Job) -> int:
    return -1
