"""Least attained service (foreground-background), updated once a quantum: the limit that MLFQ approximates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve.sched.checks import seconds
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy


class Las(Policy):
    """Rank: ns served, as of the last full quantum. quantum: s; 0 is one decode iteration of the machine."""

    settled = True

    def __init__(self, quantum: float = 0.0) -> None:
        if isinstance(quantum, int | float) and quantum < 0:
            raise ValueError(f"quantum={quantum} must not be negative; it is in seconds, 0 is one decode iteration")
        seconds("quantum", quantum)
        self.quantum = round(quantum * 1e9)
        self.attained: dict[Job, int] = {}

    def rank(self, job: Job) -> int:
        return self.attained[job]

    def arrive(self, job: Job) -> None:
        self.attained[job] = 0
        self.wake(job, served=self.quantum or self.machine.decode_ns)

    def alarm(self, job: Job, why: str) -> None:
        self.attained[job] = job.served
        self.rerank(job)
        self.wake(job, served=self.quantum or self.machine.decode_ns)

    def depart(self, job: Job) -> None:
        del self.attained[job]

    def derived_settings(self) -> Mapping[str, Any]:
        return {"quantum": (self.quantum or self.machine.decode_ns) / 1e9}

    def explain(self, job: Job) -> str:
        return f"served {self.attained[job] / 1e6:.0f} ms"
