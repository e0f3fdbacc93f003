"""LiveFeed: what happens to jobs, as events for whoever watches while it happens, such as the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from fastserve.sched import observer
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer, Run
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.policy import Policy

log = logging.getLogger("fastserve")

Watcher = Callable[[dict[str, Any]], object]


class LiveFeed(Observer):
    """Watchers are called on the driver's thread, each event a dict with `type`, `at` (s of its clock) and `id`:

    arrive   prompt_tokens, client, level
    join     slot, resumed (its KV was kept), level: told before the step that it joins for, as are leave, copy and drop
    leave    its place was taken, or its room, or all KV was forgotten; level
    level    direction (demoted, promoted or changed), was, level: its policy says something else of it
    copy     direction (out or in), blocks, ahead (beside the running step): a copy of its KV was started
    drop     its KV is forgotten
    end      reason, output_tokens

    level is what the policy's explain() says of the job, without what follows the first comma.
    """

    def __init__(self) -> None:
        self.watchers: tuple[Watcher, ...] = ()  # replaced as a whole: any thread may do so
        self._levels: dict[Job, str] = {}

    @property
    def looked_at(self) -> bool:
        return bool(self.watchers)

    def add(self, watcher: Watcher) -> None:
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

    def level(self, job: Job) -> str:
        return observer.headline(explained(self.run.scheduler.policy, job))

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, run: Run, now: int) -> None:
        self.run = run
        self._levels = {}

    def submitted(self, job: Job, now: int) -> None:
        self._levels[job] = level = self.level(job)
        self.tell("arrive", now, job, prompt_tokens=job.prompt, client=job.client, level=level)

    def planned(self, plan: Plan, now: int) -> None:
        """At `now`, not plan.now: after a snapshot that was taken at the boundary before it."""
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
            self.tell("join", now, job, slot=self.run.seats.of[job], resumed=job.decoding, level=level)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        for job in self.run.seats.of:
            self.tell("leave", now, job, level=self.level(job))

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        for job in finished:
            self._end(job, now)
        for job in list(self.run.scheduler.ranking.dirty):  # whose rank may have changed is there until the next plan
            level = self.level(job)
            was = self._levels.get(job, level)
            self._levels[job] = level
            if level != was:
                self.tell("level", now, job, direction=direction(was, level), was=was, level=level)

    def cancelled(self, job: Job, now: int) -> None:
        self._end(job, now)

    def _end(self, job: Job, now: int) -> None:
        self._levels.pop(job, None)
        self.tell("end", now, job, reason=job.finish, output_tokens=job.generated)


def explained(policy: Policy, job: Job) -> str:
    """What its policy says of a live job; empty where it cannot."""
    try:
        return observer.said(policy, job)
    except PolicyError:
        return ""


def direction(was: str, level: str) -> str:
    """Between two levels such as "Q1" and "Q3": demoted or promoted; changed where there are no levels."""
    old, new = observer.level(was), observer.level(level)
    if old is None or new is None or old == new:
        return "changed"
    return "demoted" if new > old else "promoted"
