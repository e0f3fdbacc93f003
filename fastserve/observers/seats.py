"""Which place each member of the batch holds, and why a plan takes places away."""

from __future__ import annotations

from heapq import heappop, heappush

from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.sched.scheduler import Scheduler


class Seats:
    """Places are numbered from 0; who joins gets the lowest free one. The Scheduler itself only counts them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.of: dict[Job, int] = {}
        self.free = list(range(scheduler.slots))

    def take(self, job: Job) -> int:
        place = self.of[job] = heappop(self.free)
        return place

    def give(self, job: Job) -> int:
        place = self.of.pop(job)
        heappush(self.free, place)
        return place

    def why(self, plan: Plan) -> str:
        """Why somebody left, in words. Before the plan is committed."""
        ledger = self.scheduler.ledger
        takers = ", ".join([f"job {job.id}" for job in plan.joined])
        if ledger.used > ledger.blocks:
            return "the running jobs outgrew the KV pool" + (f" ({takers} joined)" if takers else "")
        if len(plan.running) < self.scheduler.slots:
            return f"its KV room was needed by {takers}"
        return f"its place was needed by {takers}"
