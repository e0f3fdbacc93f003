"""Recovery: what becomes of a step that failed, of its requests, and of the batch cap afterwards."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastserve.sched.job import Job
from fastserve.sched.plan import Plan

if TYPE_CHECKING:
    from fastserve.engine.loop import Loop

log = logging.getLogger("fastserve")

PATIENCE = 500
"""Full steps that must go well before the batch cap rises again; twice as many after each further shortage."""

HOPELESS = 8
"""So many failed steps in a row, one batch of requests after the other, are the device's fault and not theirs."""


class Recovery:
    """A shortage of memory halves the batch cap. It may pass: another process, a crowd of long prompts. So the cap
    doubles again, up to what was asked for, after ever longer stretches of full steps that went well.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.asked = loop.scheduler.slots
        self._patience = PATIENCE // 2  # doubled by each shortage, the first one too
        self._calm = 0  # full steps since the batch cap last changed
        self._in_a_row = 0

    def went_well(self) -> None:
        """A step did."""
        self._in_a_row = 0
        scheduler = self.loop.scheduler
        if scheduler.slots == self.asked or len(scheduler.running) < scheduler.slots:
            return
        self._calm += 1
        if self._calm >= self._patience:
            log.info("%d full steps went well: the batch cap rises from %d again", self._calm, scheduler.slots)
            self._resize(min(self.asked, 2 * scheduler.slots))

    def too_large(self, plan: Plan, error: MemoryError) -> None:
        """The device has no room for the step: from now on at most half as many jobs share one."""
        self.loop.counters["oom"] += 1
        jobs = [job for job, _ in plan.work]
        if len(jobs) < 2:
            log.warning("out of memory for one request alone, which fails: %s", error)
            self.start_over(jobs, f"out of memory: {error}")
            return
        self.start_over([], "")
        slots = min(self.loop.scheduler.slots, len(jobs)) // 2
        log.warning("out of memory in a step of %d requests: the batch cap falls to %d (%s)", len(jobs), slots, error)
        self._patience *= 2
        self._resize(slots)

    def failed(self, plan: Plan, error: Exception) -> None:
        """The step's requests fail with it. Raises RuntimeError when that has happened too often in a row."""
        self.loop.counters["failed_steps"] += 1
        jobs = [job for job, _ in plan.work]
        log.error("a step of %d requests failed, and they with it: %r", len(jobs), error, exc_info=error)
        why = f"{type(error).__name__}: {error}"
        for job in jobs:
            self.loop.requests[job].by_step = True
        self.start_over(jobs, why)
        self._in_a_row += 1
        if self._in_a_row >= HOPELESS:
            raise RuntimeError(f"{HOPELESS} steps in a row have failed, the last one with {why}")

    def start_over(self, failed: list[Job], why: str) -> None:
        """The failed plan is thrown away and all KV with it: every other job computes its own again."""
        loop = self.loop
        now = loop.now = loop.clock.now()
        loop.backend.reset()
        if loop.flight is not None:
            loop.flight.forgot(now)
        lost = loop.scheduler.forget_all(now)
        loop.recorder.evicted(lost, now)
        loop.counters["preemptions"] += len(lost)
        loop.watch.seats.clear()
        for job in failed:
            loop.cancel(loop.requests[job], "error", now, why)

    def _resize(self, slots: int) -> None:
        loop = self.loop
        self._calm = 0
        loop.scheduler.resize(slots)
        loop.counters["slots"] = slots
        if loop.flight is not None:
            loop.flight.resized(loop.now, slots)
