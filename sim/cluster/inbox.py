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
        self.box: list[tuple[int, int, int, Job]] = []  # (ns at which it is here, arrival, id, job): a heap, which the
        # replica fills
        super().__init__(patience)

    def end(self, program: str) -> None:
        """Nothing of this program is left anywhere."""
        self.over.append(program)
        self.at = 0

    def _look(self) -> None:
        if self.waits:
            super()._look()
        else:  # as that would
            self.at = 0 if self.over else self.box[0][0] if self.box else NEVER

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
        if self.waits or self.over:
            self._look()
        else:  # as that would
            self.at = box[0][0] if box else NEVER
        return came

    def cancelled(self, now: int) -> list[Job]:
        return super().cancelled(now) if self.waits else []

    def ended(self) -> list[str]:
        return super().ended() if self.over else []

    def left(self, job: Job, now: int) -> None:
        self.now = now
        self.gone(job, now)
        if self.waits:
            self._look()


def _nobody(job: Job, now: int) -> None:
    pass
