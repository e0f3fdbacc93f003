"""Recovery from a failed step: its requests fail, all KV is recomputed, and out of memory reduces the batch cap."""

from __future__ import annotations

import logging
from typing import Protocol

from fastserve.engine.request import Request
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.sched.scheduler import Scheduler

log = logging.getLogger("fastserve")

PATIENCE = 500
"""Successful full steps before the batch cap is raised again; doubled by each further out-of-memory."""

MAX_FAILED_STEPS = 8
"""Failed steps in a row after which the device, not the requests, is taken to be the cause: the engine stops."""


class Recoverable(Protocol):
    """What recovery needs of the loop."""

    scheduler: Scheduler
    counters: dict[str, int]
    requests: dict[Job, Request]

    def start_over(self, failed: list[Job], why: str) -> None: ...
    def resize(self, slots: int) -> None: ...


class Recovery:
    """Out of memory halves the batch cap. The cause may pass: another process, several long prompts. So the cap doubles
    again, up to its setting, after a growing number of successful full steps.
    """

    def __init__(self, loop: Recoverable) -> None:
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
            self.loop.start_over(jobs, f"out of memory: {error}")
            return
        self.loop.start_over([], "")
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
        self.loop.start_over(jobs, why)
        self._in_a_row += 1
        if self._in_a_row >= MAX_FAILED_STEPS:
            raise RuntimeError(f"{MAX_FAILED_STEPS} steps in a row have failed, the last one with {why}")

    def _resize(self, slots: int) -> None:
        self._calm = 0
        self.loop.resize(slots)
