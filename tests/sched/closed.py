"""A driver in closed loop: who comes next, who gives up and when a program is over depend on who has ended."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from fastserve.sched.job import NEVER, Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from sim.inbox import Inbox
from sim.world import World

if TYPE_CHECKING:
    from tests.sched.worlds import Work


class ClosedInbox(Inbox):
    """Hands out what ends lead to, of which `ends`, an observer, hears."""

    def __init__(self, work: Work) -> None:
        self.loop = Loop(work)
        super().__init__(iter(()))
        self.ends = Ends(self)

    def _look(self) -> None:
        self.at = self.loop.at

    def arrived(self, now: int) -> list[Job]:
        came = [self.loop.job(id, at) for at, id in self.loop.arrived(now)]
        self.known.update({job.id: job for job in came})
        self._look()
        return came

    def cancelled(self, now: int) -> list[Job]:  # type: ignore[override]
        ids = self.loop.left(now)
        self._look()
        return sorted([self.known[id] for id in ids], key=lambda job: (job.arrival, job.id))

    def over(self, now: int) -> list[str]:
        names = self.loop.over(now)
        self._look()
        return names

    def ended(self, job: Job, now: int) -> None:
        self.loop.ended(job.id, now)
        self._look()


class Ends(Observer):
    """Tells an inbox who has ended."""

    def __init__(self, inbox: ClosedInbox) -> None:
        self.inbox = inbox

    def rejected(self, job: Job, now: int, why: str) -> None:
        self.inbox.ended(job, now)

    def cancelled(self, job: Job, now: int) -> None:
        self.inbox.ended(job, now)

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        for job in finished:
            self.inbox.ended(job, now)


class Loop:
    """What comes when, for both drivers: heaps of (ns, ...)."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.coming: list[tuple[int, int]] = []
        self.leaving: list[tuple[int, int]] = []
        self.ending: list[tuple[int, str]] = []
        self.left_of: dict[str, int] = {}  # jobs by program that have not ended
        roots = set(range(len(work.arrival))) - {id for ids in (work.after or {}).values() for id, _ in ids}
        for job in work.jobs():
            self.left_of[job.program] = self.left_of.get(job.program, 0) + 1
        self.programs = [job.program for job in work.jobs()]
        for id in roots:
            self._comes(id, work.arrival[id])

    def job(self, id: int, at: int) -> Job:
        return self.work.job(id, at)

    @property
    def at(self) -> int:
        return min([heap[0][0] for heap in (self.coming, self.leaving, self.ending) if heap], default=NEVER)

    def _comes(self, id: int, at: int) -> None:
        heappush(self.coming, (at, id))
        for after, gone in self.work.cancels:
            if gone == id:
                heappush(self.leaving, (at + max(0, after - self.work.arrival[id]), id))

    def ended(self, id: int, now: int) -> None:
        for other, think in (self.work.after or {}).get(id, ()):
            self._comes(other, now + think)
        name = self.programs[id]
        self.left_of[name] -= 1
        if name and not self.left_of[name] and self.work.told:
            heappush(self.ending, (now + id % 3 * 5_000_000, name))

    def arrived(self, now: int) -> list[tuple[int, int]]:
        return _due(self.coming, now)

    def left(self, now: int) -> list[int]:
        return [id for _, id in _due(self.leaving, now)]

    def over(self, now: int) -> list[str]:
        return [name for _, name in _due(self.ending, now)]


def _due(heap: list[tuple[int, Any]], now: int) -> list[tuple[int, Any]]:
    due = []
    while heap and heap[0][0] <= now:
        due.append(heappop(heap))
    return due


class ClosedWorld(World):
    """Its inbox is a ClosedInbox."""

    def drain(self, now: int) -> None:
        inbox: Any = self.inbox  # a ClosedInbox
        super().drain(now)
        for name in inbox.over(now):
            self.scheduler.end_program(name, now)
            if self.observers.members:
                self.observers.program_ended(name, now)
