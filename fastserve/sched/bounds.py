"""How long a plan holds: until the Scheduler would have to think again, if nothing happens before."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.sched.alarms import Alarms
from fastserve.sched.job import NEVER, Job, Meter
from fastserve.sched.kv import Ledger


class Bounds:
    """One iteration, unless extend() finds that more are right. reset() before each plan."""

    def __init__(self, alarms: Alarms, meter: Meter, ledger: Ledger) -> None:
        self.alarms = alarms
        self.meter = meter
        self.ledger = ledger
        self.bounded = ledger.blocks < NEVER
        self.iterations = 1
        self.service = NEVER  # ns of service
        self.until = NEVER  # ns, the wall clock

    def reset(self) -> None:
        self.iterations = 1
        self.service = self.until = NEVER

    def extend(
        self, now: int, joined: Sequence[Job], left: Sequence[Job], hold: int, batch: int, room: int, most: int
    ) -> None:
        """Until the first alarm, the end of the hold, or the iteration after which the batch has outgrown the room.

        room: blocks by which the members may grow. most: iterations that the prefill allows. Who joins or leaves with
        this plan is not yet on the books.
        """
        meter = self.meter
        alarms = self.alarms
        k = min(most, alarms.next_tokens() - meter.steps)
        service = alarms.next_served() - meter.service
        until = alarms.next_waited()
        if joined:
            for job in joined:
                k = min(k, job.tokens_goal - job.tokens_base)
                service = min(service, job.served_goal - job.clock_base)
        if left:
            for job in left:
                if job.waited:
                    until = min(until, now + job.waited)
        if hold:
            service = min(service, hold - meter.service)
        if self.bounded and k > 1 and batch:
            k = self._room_for(k, joined, left, batch, room)
        self.service = max(1, service)
        self.until = until
        self.iterations = max(1, k)

    def _room_for(self, k: int, joined: Sequence[Job], left: Sequence[Job], batch: int, room: int) -> int:
        ledger = self.ledger
        steps = self.meter.steps
        phase = ledger.phase
        if joined or left:
            block = ledger.block
            phase = phase.copy()
            for job in left:
                if ledger.grows(job):
                    phase[(job.prompt + job.tokens_base) % block] -= 1
            for job in joined:
                if ledger.grows(job):
                    phase[(job.prompt + job.tokens_base - steps) % block] += 1
        growing = sum(phase) if ledger.whole else batch
        return ledger.steps_within(room, growing, steps, k, phase) if growing else k
