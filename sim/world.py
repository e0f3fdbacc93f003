"""World: the simulation, three SimPy processes (arrivals, gpu, link) around one Scheduler."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

import simpy

from fastserve.metrics.records import Recorder
from fastserve.sched.errors import ObserverError, PolicyError
from fastserve.sched.job import NEVER
from fastserve.sched.scheduler import Scheduler
from sim.clock import Clock
from sim.driver import Driver
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import ModelledMachine

STRIDE: Final = 256
"""Once in so many turns SimPy gets its own all the same, and with it Ctrl-C."""


class World(Driver):
    """One run. max_backlog: live jobs above which it stops as collapsed. watch: told how many jobs just finished.

    about: what run it is, for observers.
    """

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
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scheduler, machine, link, inbox, recorder, about)
        self.max_backlog = NEVER if max_backlog is None else max_backlog
        self.watch = watch
        self.collapsed = False
        self.stopped = False  # asked for from outside: the run ends at the next boundary
        self.broken: PolicyError | ObserverError | None = None
        self.env: Any = Clock()  # its times are whole ns; SimPy would call them numbers
        self.now = 0  # ns; the clock may lag behind, see Clock
        self.idle = self.env.event()
        self.wake = self.env.event()
        self.env.process(self.gpu())
        self.env.process(self.arrivals())
        self.env.process(link.process(self.env))

    def run(self) -> None:
        """Until every job has ended, the backlog has passed its bound, or somebody has set `stopped`.

        Raises PolicyError; ObserverError where an observer breaks.
        """
        self.recorder.began(self.observers.run, 0)
        try:
            self.env.run()
            if self.broken is not None:
                raise self.broken
            self.recorder.ended(self.now)
        finally:
            self.observers.ended(self.now)

    def gpu(self) -> Generator[simpy.Event, Any, None]:
        """SimPy remakes what a process raises from its args, which these errors do not survive; so they are kept."""
        try:
            yield from self.drive()
        except (PolicyError, ObserverError) as error:
            self.broken = error

    def drive(self) -> Generator[simpy.Event, Any, None]:
        """The driver loop. It drains the inbox by comparing times, so SimPy's order of events never matters."""
        env = self.env
        scheduler = self.scheduler
        machine = self.machine
        recorder = self.recorder
        inbox = self.inbox
        watch = self.watch
        fed = self.fed
        observers = self.observers
        due: list[Any] = env.due
        now = 0
        turns = 0
        while True:
            while inbox.at <= now:  # once; again where what it brought is over at once, and other things come of that
                self.drain(now)
                if len(scheduler.live) > self.max_backlog:
                    self.collapsed = True
                    return
            plan = scheduler.plan(now)
            if plan is None:
                opens = scheduler.opens_at()
                wakes = min(opens, inbox.at)
                if observers.members and scheduler.live:
                    observers.idle(now)
                if wakes == NEVER:
                    if scheduler.live:
                        raise self.stuck()
                    return
                now = self.now = max(now, wakes)
                turns += 1
                if turns % STRIDE == 0 or (due and due[0][0] <= now):
                    yield self.something(opens)
                if opens <= now:
                    self.tick(now)
                continue
            looked_at = observers.members
            if looked_at:
                self.planned_at = now
                observers.planned(plan, now)
            outcome = machine.run(plan)
            now = self.now = now + outcome.stall + outcome.service
            turns += 1
            if turns % STRIDE == 0 or (due and due[0][0] <= now):
                yield env.until(now)
            try:
                finished = scheduler.commit(plan, outcome, now)
            except PolicyError:
                observers.last("committed", plan, outcome, (), now)
                raise
            recorder.committed(plan, outcome, finished, now)
            if looked_at:
                observers.committed(plan, outcome, finished, now)
            if finished:
                if fed is not None:
                    for job in finished:
                        fed.left(job, now)
                if watch is not None:
                    watch(len(finished))
            if self.stopped:
                return

    def something(self, opens: int) -> simpy.Event:
        """The next arrival, or the time at which admission opens by itself."""
        env = self.env
        if self.fed is not None:  # what the arrivals process sleeps for need not be what comes next
            soon: simpy.Event = env.until(min(opens, self.inbox.at))
            return soon
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
