"""Inbox: arrivals and cancels, in the order in which both drivers submit them to the Scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastserve.sched.job import NEVER, Job


class Inbox:
    """Jobs by (arrival, id), then cancels by time and (arrival, id). cancels: (ns, job id).

    A job object is made when it is taken out, so a long trace is not held as objects.
    """

    def __init__(self, jobs: Iterator[Job], cancels: Sequence[tuple[int, int]] = ()) -> None:
        self.jobs = jobs
        self.head: Job | None = next(jobs, None)
        self.cancels = sorted(cancels, reverse=True)
        self.known: dict[int, Job] = {}  # who may yet be cancelled
        self.cancelled_ids = {id for _, id in cancels}
        self.at = NEVER  # ns: when the next of them comes; NEVER if none does
        self._look()

    def _look(self) -> None:
        at = self.head.arrival if self.head is not None else NEVER
        self.at = min(at, self.cancels[-1][0]) if self.cancels else at

    def arrived(self, now: int) -> list[Job]:
        """Takes out the jobs that have come by now."""
        came: list[Job] = []
        job = self.head
        while job is not None and job.arrival <= now:
            if self.cancelled_ids and job.id in self.cancelled_ids:
                self.known[job.id] = job
            came.append(job)
            job = next(self.jobs, None)
        self.head = job
        self._look()
        return came

    def cancelled(self, now: int) -> list[Job]:
        """Takes out the jobs whose clients have gone by now, by (arrival, id)."""
        if not self.cancels or self.cancels[-1][0] > now:
            return []
        gone: list[Job] = []
        while self.cancels and self.cancels[-1][0] <= now:
            gone.append(self.known.pop(self.cancels.pop()[1]))
        self._look()
        return sorted(gone, key=lambda job: (job.arrival, job.id))
