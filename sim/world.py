"""World: the simulation, three SimPy processes (arrivals, gpu, link) around one Scheduler."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

import simpy

from fastserve.metrics.finish import GAVE_UP
from fastserve.metrics.records import Recorder
from fastserve.sched.errors import ObserverError, PolicyError, RefusedError
from fastserve.sched.job import NEVER, Job
from fastserve.sched.observer import Observer, Observers
from fastserve.sched.plan import Transfer
from fastserve.sched.scheduler import Scheduler
from sim.clock import Clock
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import ModelledMachine
from sim.session_inbox import SessionInbox

STRIDE: Final = 256
"""Once in so many turns SimPy gets its own all the same, and with it Ctrl-C."""


class World:
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
        self.scheduler = scheduler
        self.machine = machine
        self.inbox = inbox
        self.fed = inbox if isinstance(inbox, SessionInbox) else None
        self.recorder = recorder
        if self.fed is not None:
            self.fed.first = recorder.first_token
        self.max_backlog = NEVER if max_backlog is None else max_backlog
        self.watch = watch
        self.collapsed = False
        self.stopped = False  # asked for from outside: the run ends at the next boundary
        self.broken: PolicyError | ObserverError | None = None
        self.link = link
        self.observers = Observers(scheduler, about)
        self.planned_at = 0  # ns, of the last plan that somebody looked at
        self.env: Any = Clock()  # its times are whole ns; SimPy would call them numbers
        self.now = 0  # ns; the clock may lag behind, see Clock
        self.idle = self.env.event()
        self.wake = self.env.event()
        self.env.process(self.gpu())
        self.env.process(self.arrivals())
        self.env.process(link.process(self.env))

    def attach(self, observer: Observer) -> None:
        """Before run(): tells it everything that happens. Raises ObserverError where it cannot begin."""
        self.link.sent = self._sent
        self.observers.attach(observer)

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
                        raise self._stuck()
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

    def _stuck(self) -> RuntimeError:
        return RuntimeError(f"{len(self.scheduler.live)} jobs wait and nothing will happen; a bug in the Scheduler")

    def tick(self, now: int) -> None:
        """Nothing runs, and the Scheduler wanted to be asked again by now."""
        try:
            rung = self.scheduler.tick(now)
        except PolicyError:
            self.observers.last("ticked", now)
            raise
        if rung and self.observers.members:
            self.observers.ticked(now)

    def drain(self, now: int) -> None:
        observers = self.observers
        fed = self.fed
        for job in self.inbox.arrived(now):
            try:
                self.scheduler.submit(job, now)
            except RefusedError as error:
                self.recorder.rejected(job, now, str(error))
                if observers.members:
                    observers.rejected(job, now, str(error))
                if fed is not None:
                    fed.left(job, now)
                continue
            except PolicyError:
                observers.last("submitted", job, now)
                raise
            if observers.members:
                observers.submitted(job, now)
        for job in self.inbox.cancelled(now):
            if not job.finish:
                self._cancel(job, now)
        if fed is not None:
            for program in fed.ended():
                self._end_program(program, now)

    def _end_program(self, program: str, now: int) -> None:
        try:
            self.scheduler.end_program(program, now)
        except PolicyError:
            self.observers.last("program_ended", program, now)
            raise
        if self.observers.members:
            self.observers.program_ended(program, now)

    def _cancel(self, job: Job, now: int) -> None:
        try:
            self.scheduler.cancel(job, now)
        except PolicyError:
            self.observers.last("cancelled", job, now)
            raise
        if self.fed is not None:
            job.finish = GAVE_UP
        self.recorder.cancelled(job, now)
        if self.observers.members:
            self.observers.cancelled(job, now)
        if self.fed is not None:
            self.fed.left(job, now)

    def _sent(self, transfer: Transfer) -> None:
        """By the machine, within the run of a plan."""
        self.observers.copied(transfer, self.planned_at)

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
