"""LiveFeed: what happens to jobs, as events for whoever watches while it happens, such as the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from fastserve.observers.contexts import Contexts
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
    hold     its policy holds it back; level, with the whole of what the policy says of it
    release  it is held back no longer; held_s (so far)
    join     slot, resumed (its KV was kept), found (tokens of it in the prefix cache), level: told before the step that
             it joins for, as are leave, copy and drop
    leave    its place was taken, or its room, or its KV was lost, or it did not join after all; level
    level    direction (demoted, promoted or changed), was, level: its policy says something else of it
    copy     direction (out or in), blocks, ahead (beside the running step): a copy of its KV was started
    drop     its KV is forgotten
    end      reason, output_tokens

    level is what the policy's explain() says of the job, without what follows the first comma.
    """

    def __init__(self) -> None:
        self.watchers: tuple[Watcher, ...] = ()  # replaced as a whole: any thread may do so
        self._levels: dict[Job, str] = {}
        self._held: dict[Job, None] = {}
        self.contexts: Contexts | None = None  # since somebody has looked

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

    def shown(self) -> dict[str, Any]:
        """What is on the device, as plain values: contexts, and tokens since somebody has looked. Driver's thread."""
        contexts = self.contexts
        if contexts is None:
            return {"contexts": [], "prefix": {}}
        counts = {name: getattr(contexts, name) for name in ("asked", "found", "evicted", "again")}
        return {"contexts": [asdict(row) for row in contexts.rows()], "prefix": counts}

    def level(self, job: Job) -> str:
        return observer.headline(explained(self.run.scheduler.policy, job))

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, run: Run, now: int) -> None:
        self.run = run
        self._levels = {}
        self._held = {}
        self.contexts = Contexts()
        self.contexts.began(run, now)

    def submitted(self, job: Job, now: int) -> None:
        self._levels[job] = level = self.level(job)
        self.tell("arrive", now, job, prompt_tokens=job.prompt, client=job.client, level=level)
        self._holds(now)

    def _holds(self, now: int) -> None:
        """Who is held back now and was not, and who was and is not."""
        holding = self.run.scheduler.holding.jobs
        for job in [job for job in self._held if job not in holding]:
            del self._held[job]
            self.tell("release", now, job, held_s=job.held / 1e9)
        for job in holding:
            if job not in self._held:
                self._held[job] = None
                self.tell("hold", now, job, level=explained(self.run.scheduler.policy, job))

    def program_ended(self, program: str, now: int) -> None:
        self._holds(now)

    def idle(self, now: int) -> None:
        self._holds(now)

    def ticked(self, now: int) -> None:
        self._holds(now)

    def planned(self, plan: Plan, now: int) -> None:
        """At `now`, not plan.now: after a snapshot that was taken at the boundary before it."""
        self._holds(now)
        assert self.contexts is not None
        self.contexts.planned(plan, now)
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
            found = plan.found.get(job, 0)
            self.tell("join", now, job, slot=self.run.seats.of[job], resumed=job.decoding, found=found, level=level)

    def amended(self, plan: Plan, now: int) -> None:
        """Who joins for nothing leaves again."""
        assert self.contexts is not None
        self.contexts.amended(plan, now)
        for job in self.run.seats.without(plan):
            self.tell("leave", now, job, level=self.level(job))
        for job in plan.amended.lost if plan.amended is not None else ():
            self.tell("drop", now, job)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        assert self.contexts is not None
        self.contexts.failed(lost, now)
        for job in self.run.seats.of:
            self.tell("leave", now, job, level=self.level(job))

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        assert self.contexts is not None
        self.contexts.committed(plan, outcome, finished, now)
        for job in finished:
            self._end(job, now)
        for job in list(self.run.scheduler.ranking.dirty):  # whose rank may have changed is there until the next plan
            level = self.level(job)
            was = self._levels.get(job, level)
            self._levels[job] = level
            if level != was:
                self.tell("level", now, job, direction=direction(was, level), was=was, level=level)
        self._holds(now)

    def cancelled(self, job: Job, now: int) -> None:
        self._end(job, now)

    def _end(self, job: Job, now: int) -> None:
        self._levels.pop(job, None)
        self._held.pop(job, None)
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
