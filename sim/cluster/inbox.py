"""ReplicaInbox: what the router sends to one replica, and clients that give up while it has their requests."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from fastserve.sched.job import NEVER, Job
from sim.session_inbox import FedInbox


class ReplicaInbox(FedInbox):
    """gone: told of each job that is over at this replica, and when; its replica sets it. patience: see FedInbox."""

    def __init__(self, patience: int | None) -> None:
        self.gone: Callable[[Job, int], object] = _nobody
        self.box: list[tuple[int, int, int, Job]] = []  # (ns at which it is here, arrival, id, job): a heap
        super().__init__(patience)

    def put(self, job: Job, due: int) -> None:
        """A job that is here from `due` (ns) on."""
        heappush(self.box, (due, job.arrival, job.id, job))
        if due < self.at:
            self.at = due

    def end(self, program: str) -> None:
        """Nothing of this program is left anywhere."""
        self.over.append(program)
        self.at = 0

    def coming(self) -> int:
        return self.box[0][0] if self.box else NEVER

    def arrived(self, now: int) -> list[Job]:
        came: list[Job] = []
        self.now = now
        box = self.box
        while box and box[0][0] <= now:
            job = heappop(box)[3]
            came.append(job)
            if self.patience is not None:
                heappush(self.waits, (job.arrival + self.patience, job.id, job))
        self._look()
        return came

    def left(self, job: Job, now: int) -> None:
        self.now = now
        self.gone(job, now)
        self._look()


def _nobody(job: Job, now: int) -> None:
    pass
