"""How long a plan holds that may be repeated: until the Scheduler would have to think again by itself."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.sched.alarms import Alarms
from fastserve.sched.job import NEVER, Job, Meter
from fastserve.sched.kv import Ledger


class Bounds:
    """extend() fills its attributes anew: a plan holds for so many iterations, ns of service, and until a time (ns)."""

    def __init__(self, alarms: Alarms, meter: Meter, ledger: Ledger) -> None:
        self.alarms = alarms
        self.meter = meter
        self.ledger = ledger
        self.bounded = ledger.blocks < NEVER
        self.iterations = 1
        self.service = NEVER
        self.until = NEVER

    def extend(
        self, now: int, joined: Sequence[Job], left: Sequence[Job], hold: int, batch: int, room: int, most: int
    ) -> None:
        """Until the first alarm, the end of the hold, or the iteration after which the batch has outgrown the room.

        room: blocks by which the members may grow. most: iterations that the prefill allows. Who joins or leaves with
        this plan is not yet on the books.
        """
        meter = self.meter
        alarms = self.alarms
        k = most
        service = NEVER
        until = NEVER
        if alarms.tokens:
            at = alarms.next_tokens()
            if at < NEVER:
                k = min(k, at - meter.steps)
        if alarms.served:
            at = alarms.next_served()
            if at < NEVER:
                service = at - meter.service
        if alarms.waited:
            until = alarms.next_waited()
        if joined:
            for job in joined:
                if job.tokens_goal < NEVER:
                    k = min(k, job.tokens_goal - job.tokens_base)
                if job.served_goal < NEVER:
                    service = min(service, job.served_goal - job.clock_base)
        if left:
            for job in left:
                if job.waited:
                    until = min(until, now + job.waited)
        if hold:
            service = min(service, hold - meter.service)
        if self.bounded and k > 1 and batch:
            k = self._room_for(k, joined, left, batch, room)
        self.service = service if service > 0 else 1
        self.until = until
        self.iterations = k if k > 0 else 1

    def _room_for(self, k: int, joined: Sequence[Job], left: Sequence[Job], batch: int, room: int) -> int:
        ledger = self.ledger
        steps = self.meter.steps
        phase = ledger.phase
        if joined or left:
            block = ledger.block
            lookahead = ledger.lookahead
            phase = phase.copy()
            for job in left:
                if ledger.grows(job):
                    phase[(job.prompt + job.tokens_base + lookahead) % block] -= 1
            for job in joined:
                if ledger.grows(job):
                    phase[(job.prompt + job.tokens_base + lookahead - steps) % block] += 1
        growing = sum(phase) if ledger.whole else batch
        return ledger.steps_within(room, growing, steps, k, phase) if growing else k
