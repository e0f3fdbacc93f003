"""Seats: which place of the batch each running job holds. The Scheduler itself only counts them."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from fastserve.sched.job import Job
from fastserve.sched.plan import Plan


class Seats:
    """Numbered from 0; who joins gets the lowest free one. A plan's moves count as soon as it is made."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.of: dict[Job, int] = {}
        self._free = list(range(slots))

    def follow(self, plan: Plan) -> None:
        for job in plan.left:
            self.leave(job)
        for job in plan.joined:
            self.of[job] = heappop(self._free)

    def without(self, plan: Plan) -> list[Job]:
        """Whom a plan that was amended leaves without the place that they would have held by it."""
        members = set(plan.members)
        return [job for job in self.of if job not in members]

    def leave(self, job: Job) -> None:
        """Who holds none is ignored."""
        seat = self.of.pop(job, None)
        if seat is not None:
            heappush(self._free, seat)

    def clear(self) -> None:
        self.of.clear()
        self._free = list(range(self.slots))

    def settle(self, running: Iterable[Job]) -> None:
        """After a time in which nobody was told of plans: who still runs stays where it was."""
        self.of = {job: self.of.get(job, -1) for job in running}
        self._free = sorted(set(range(self.slots)) - set(self.of.values()))  # a heap
        for job, seat in self.of.items():
            if seat < 0:
                self.of[job] = heappop(self._free)
