"""Driver: what every driver of a Scheduler in the simulator does at a boundary, beside planning and running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve.metrics.finish import GAVE_UP
from fastserve.metrics.records import Recorder
from fastserve.sched.errors import PolicyError, RefusedError
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer, Observers
from fastserve.sched.plan import Transfer
from fastserve.sched.scheduler import Scheduler
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import ModelledMachine
from sim.session_inbox import FedInbox


class Driver:
    """A Scheduler with its machine, link and inbox. about: what run it is, for observers."""

    def __init__(
        self,
        scheduler: Scheduler,
        machine: ModelledMachine,
        link: Link,
        inbox: Inbox,
        recorder: Recorder,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.machine = machine
        self.link = link
        self.inbox = inbox
        self.fed = inbox if isinstance(inbox, FedInbox) else None
        self.recorder = recorder
        if self.fed is not None:
            self.fed.first = recorder.first_token
        self.observers = Observers(scheduler, about)
        self.planned_at = 0  # ns, of the last plan that somebody looked at

    def attach(self, observer: Observer) -> None:
        """Before it begins: tells it everything that happens. Raises ObserverError where it cannot begin."""
        self.link.sent = self._sent
        self.observers.attach(observer)

    def stuck(self) -> RuntimeError:
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
