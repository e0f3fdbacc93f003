"""Watch: what happens to jobs, told to whoever looks while it happens. Nothing is computed while nobody does."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any

from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.sched.scheduler import Scheduler

log = logging.getLogger("fastserve")

Watcher = Callable[[dict[str, Any]], object]
LEVEL = re.compile(r"Q(\d+)\b")


class Seats:
    """Which slot each member of the batch holds: numbered from 0, who joins gets the lowest free one.

    A plan's moves count as soon as it is made. lost: who held a slot when all was forgotten, until Watch.failed().
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.of: dict[Job, int] = {}
        self.lost: list[Job] = []
        self._free = list(range(slots))

    def follow(self, plan: Plan) -> None:
        for job in plan.left:
            self.leave(job)
        for job in plan.joined:
            self.of[job] = heappop(self._free)

    def leave(self, job: Job) -> None:
        """Who holds none is ignored."""
        seat = self.of.pop(job, None)
        if seat is not None:
            heappush(self._free, seat)

    def clear(self) -> None:
        self.lost += self.of
        self.of.clear()
        self._free = list(range(self.slots))


class Watch:
    """Called on the engine's thread. Each event is a dict with `type`, `at` (s of the engine's clock) and `id`:

    arrive   prompt_tokens, client, level
    join     slot, resumed (its KV was kept), level: told before the step that it joins for, as are leave, copy and drop
    leave    its place was taken, or its room, or all KV was forgotten; level
    level    direction (demoted, promoted or changed), was, level: its policy says something else of it
    copy     direction (out or in), blocks, ahead (beside the running step): a copy of its KV was started
    drop     its KV is forgotten
    end      reason, output_tokens

    level is what the policy's explain() says of the job, without what follows the first comma.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.seats = Seats(scheduler.slots)
        self.watchers: tuple[Watcher, ...] = ()  # replaced as a whole: any thread may do so
        self._levels: dict[Job, str] = {}

    @property
    def looked_at(self) -> bool:
        return bool(self.watchers)

    def add(self, watcher: Watcher) -> None:
        if not self.watchers:
            self._levels = {}
        self.watchers = (*self.watchers, watcher)

    def remove(self, watcher: Watcher) -> None:
        self.watchers = tuple([other for other in self.watchers if other != watcher])

    def tell(self, what: str, at: int, job: Job, **facts: Any) -> None:
        """A watcher that raises is not called again."""
        event = {"type": what, "at": at / 1e9, "id": job.id, **facts}
        for watcher in self.watchers:
            try:
                watcher(event)
            except Exception as error:
                log.warning("a watcher raised and is not called again: %r", error)
                self.remove(watcher)

    def explained(self, job: Job) -> str:
        """What its policy says of a live job; empty where it cannot."""
        try:
            return str(self.scheduler.policy.explain(job))
        except Exception:
            return ""

    def level(self, job: Job) -> str:
        return self.explained(job).partition(",")[0]

    # -- what the loop tells ---------------------------------------------------------------------------------------

    def arrived(self, job: Job, now: int) -> None:
        self._levels[job] = level = self.level(job)
        self.tell("arrive", now, job, prompt_tokens=job.prompt, client=job.client, level=level)

    def planned(self, plan: Plan, now: int) -> None:
        """now: ns, when it was made: after a snapshot that was taken at the boundary before it. The seats follow it."""
        self.seats.follow(plan)
        if not self.looked_at:
            return
        for job in plan.left:
            self.tell("leave", now, job, level=self.level(job))
        if plan.moves:
            for job in plan.drop:
                self.tell("drop", now, job)
            for copy in [*plan.park, *plan.load, *plan.prefetch]:
                if copy.job.copy is not copy:  # else it is under way since an earlier plan
                    ahead = copy not in plan.load and copy not in plan.clear
                    way = "out" if copy.out else "in"
                    self.tell("copy", now, copy.job, direction=way, blocks=copy.blocks, ahead=ahead)
        for job in plan.joined:
            level = self._levels.get(job) or self.level(job)
            self.tell("join", now, job, slot=self.seats.of[job], resumed=job.decoding, level=level)

    def failed(self, now: int) -> None:
        """The step whose plan was told has failed: whoever has not ended with it has left its slot."""
        lost, self.seats.lost = self.seats.lost, []
        if self.looked_at:
            for job in lost:
                if not job.finish:
                    self.tell("leave", now, job, level=self.level(job))

    def committed(self, finished: Sequence[Job], now: int) -> None:
        for job in finished:
            self.ended(job, now)
        for job in list(self.scheduler.ranking.dirty):  # whoever's rank may have changed is there until the next plan
            level = self.level(job)
            was = self._levels.get(job, level)
            self._levels[job] = level
            if level != was:
                self.tell("level", now, job, direction=direction(was, level), was=was, level=level)

    def ended(self, job: Job, now: int) -> None:
        self._levels.pop(job, None)
        self.tell("end", now, job, reason=job.finish, output_tokens=job.generated)


def direction(was: str, level: str) -> str:
    """Between two levels such as "Q1" and "Q3": demoted or promoted; changed where there are no levels."""
    old, new = LEVEL.match(was), LEVEL.match(level)
    if old is None or new is None or old[1] == new[1]:
        return "changed"
    return "demoted" if int(new[1]) > int(old[1]) else "promoted"
