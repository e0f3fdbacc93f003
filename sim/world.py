"""The simulated world: three SimPy processes, arrivals, gpu and link, around one Scheduler."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final

import simpy

from fastserve.metrics.records import Recorder
from fastserve.sched.errors import PolicyError, RefusedError
from fastserve.sched.job import NEVER
from fastserve.sched.observer import Observer
from fastserve.sched.scheduler import Scheduler
from sim.clock import Clock
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import ModelledMachine

STRIDE: Final = 256
"""Once in so many turns SimPy gets its own all the same, and with it Ctrl-C."""


class World:
    """One run. max_backlog: live jobs above which it stops as collapsed. watch: told how many jobs just finished."""

    def __init__(
        self,
        scheduler: Scheduler,
        machine: ModelledMachine,
        link: Link,
        inbox: Inbox,
        recorder: Recorder,
        *,
        max_backlog: int | None = None,
        watch: Callable[[int], object] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.machine = machine
        self.inbox = inbox
        self.recorder = recorder
        self.max_backlog = NEVER if max_backlog is None else max_backlog
        self.watch = watch
        self.collapsed = False
        self.stopped = False  # asked for from outside: the run ends at the next boundary
        self.broken: PolicyError | None = None
        self.link = link
        self.observer: Observer | None = None
        self.env: Any = Clock()  # its times are whole ns; SimPy would call them numbers
        self.now = 0  # ns; the clock may lag behind, see Clock
        self.idle = self.env.event()
        self.wake = self.env.event()
        self.env.process(self.gpu())
        self.env.process(self.arrivals())
        self.env.process(link.process(self.env))

    def attach(self, observer: Observer) -> None:
        """Before run(): tells it everything that happens."""
        self.observer = observer
        self.link.sent = observer.sent

    def run(self) -> None:
        """Until every job has ended, the backlog has passed its bound, or somebody has set `stopped`.

        Raises PolicyError.
        """
        self.env.run()
        if self.broken is not None:
            raise self.broken
        self.recorder.close(self.now, self.scheduler.live)

    def gpu(self) -> Generator[simpy.Event, Any, None]:
        """SimPy remakes what a process raises from its args, which a PolicyError does not survive; so it is kept."""
        try:
            yield from self.drive()
        except PolicyError as error:
            self.broken = error

    def drive(self) -> Generator[simpy.Event, Any, None]:
        """The driver loop. It drains the inbox by comparing times, so SimPy's order of events never matters."""
        env = self.env
        scheduler = self.scheduler
        machine = self.machine
        recorder = self.recorder
        inbox = self.inbox
        watch = self.watch
        observer = self.observer
        due: list[Any] = env.due
        now = 0
        turns = 0
        while True:
            if inbox.at <= now:
                self.drain(now)
                if len(scheduler.live) > self.max_backlog:
                    self.collapsed = True
                    return
            plan = scheduler.plan(now)
            if plan is None:
                opens = scheduler.opens_at()
                wakes = min(opens, inbox.at)
                if wakes == NEVER:
                    if scheduler.live:
                        raise self._stuck()
                    return
                now = self.now = max(now, wakes)
                turns += 1
                if turns % STRIDE == 0 or (due and due[0][0] <= now):
                    yield self.something(opens)
                continue
            if observer is not None:
                observer.planned(plan)
            outcome = machine.run(plan)
            now = self.now = now + outcome.stall + outcome.service
            turns += 1
            if turns % STRIDE == 0 or (due and due[0][0] <= now):
                yield env.until(now)
            finished = scheduler.commit(plan, outcome, now)
            recorder.commit(plan, outcome, finished, now)
            if observer is not None:
                observer.committed(plan, outcome, finished, now)
            if watch is not None and finished:
                watch(len(finished))
            if self.stopped:
                return

    def _stuck(self) -> Exception:
        waiting = len(self.scheduler.live)
        if self.scheduler.ranking.own_queue:
            why = f"left out {waiting} waiting jobs while nobody runs and nobody will come; name every waiting job"
            return PolicyError(self.scheduler.policy, "waiting", None, why)
        return RuntimeError(f"{waiting} jobs wait and nothing will happen; a bug in the Scheduler")

    def drain(self, now: int) -> None:
        observer = self.observer
        for job in self.inbox.arrived(now):
            try:
                self.scheduler.submit(job, now)
            except RefusedError as error:
                self.recorder.reject(job)
                if observer is not None:
                    observer.refused(job, now, str(error))
            else:
                if observer is not None:
                    observer.arrived(job, now)
        for job in self.inbox.cancelled(now):
            if not job.finish:
                self.scheduler.cancel(job, now)
                self.recorder.cancel(job, now)
                if observer is not None:
                    observer.cancelled(job, now)

    def something(self, opens: int) -> simpy.Event:
        """The next arrival, or the time at which admission opens by itself."""
        env = self.env
        self.wake = env.event()
        if self.inbox.at < NEVER and not self.idle.triggered:
            self.idle.succeed()
        if opens < NEVER:
            return simpy.AnyOf(env, [env.timeout(max(0, opens - env.now)), self.wake])
        return self.wake

    def arrivals(self) -> Generator[simpy.Event, Any, None]:
        """Rouses the idle gpu when something comes; a busy one looks for itself at every boundary."""
        env = self.env
        while True:
            yield self.idle
            self.idle = env.event()
            wake = self.wake
            yield env.timeout(max(0, self.inbox.at - env.now))
            if not wake.triggered:
                wake.succeed()
