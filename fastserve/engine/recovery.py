"""Recovery from a failed step: its requests fail, all KV is recomputed, and out of memory reduces the batch cap."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastserve.sched.job import Job
from fastserve.sched.plan import Plan

if TYPE_CHECKING:
    from fastserve.engine.loop import Loop

log = logging.getLogger("fastserve")

PATIENCE = 500
"""Successful full steps before the batch cap is raised again; doubled by each further out-of-memory."""

MAX_FAILED_STEPS = 8
"""Failed steps in a row after which the device, not the requests, is taken to be the cause: the engine stops."""


class Recovery:
    """Out of memory halves the batch cap. The cause may pass: another process, several long prompts. So the cap doubles
    again, up to its setting, after a growing number of successful full steps.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.asked = loop.scheduler.slots
        self._patience = PATIENCE // 2  # doubled by each out-of-memory, the first included
        self._calm = 0  # full steps since the batch cap last changed
        self._in_a_row = 0

    def went_well(self) -> None:
        """After each successful step."""
        self._in_a_row = 0
        scheduler = self.loop.scheduler
        if scheduler.slots == self.asked or len(scheduler.running) < scheduler.slots:
            return
        self._calm += 1
        if self._calm >= self._patience:
            log.info("%d full steps succeeded: the batch cap is raised from %d again", self._calm, scheduler.slots)
            self._resize(min(self.asked, 2 * scheduler.slots))

    def too_large(self, plan: Plan, error: MemoryError) -> None:
        """Out of memory: the batch cap becomes half of this step's jobs; a single request fails."""
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
        """Fails the requests of the step. Raises RuntimeError after MAX_FAILED_STEPS in a row."""
        self.loop.counters["failed_steps"] += 1
        jobs = [job for job, _ in plan.work]
        log.error("a step of %d requests failed, and they with it: %r", len(jobs), error, exc_info=error)
        why = f"{type(error).__name__}: {error}"
        for job in jobs:
            self.loop.requests[job].by_step = True
        self.start_over(jobs, why)
        self._in_a_row += 1
        if self._in_a_row >= MAX_FAILED_STEPS:
            raise RuntimeError(f"{MAX_FAILED_STEPS} steps in a row have failed, the last one with {why}")

    def start_over(self, failed: list[Job], why: str) -> None:
        """Discards the failed plan and all KV: every other job recomputes its own."""
        loop = self.loop
        now = loop.now = loop.clock.now()
        loop.backend.reset()
        lost = loop.scheduler.forget_all(now)
        loop.recorder.failed(lost, now)
        loop.observers.failed(lost, now)
        loop.counters["preemptions"] += len(lost)
        for job in failed:
            loop.cancel(loop.requests[job], "error", now, why)

    def _resize(self, slots: int) -> None:
        loop = self.loop
        self._calm = 0
        loop.scheduler.resize(slots)
        loop.counters["slots"] = slots
        loop.observers.resized(slots, loop.now)
