"""Shortest job first and shortest remaining time first, by a guess of the output length."""

from __future__ import annotations

from typing import ClassVar

from fastserve.sched.job import Job
from fastserve.sched.policy import Policy


def guess_of(job: Job) -> int:
    """Guessed output tokens; the Scheduler has refused a job without one."""
    assert job.guess is not None
    return job.guess


class Sjf(Policy):
    """The shortest guessed output first; whoever runs, runs to the end (SSJF with a perfect or a noisy proxy)."""

    settled = True
    needs: ClassVar[frozenset[str]] = frozenset({"guess"})

    def rank(self, job: Job) -> tuple[bool, int]:
        return not job.running, guess_of(job)

    def explain(self, job: Job) -> str:
        return f"guess {guess_of(job)}"


class Srpt(Policy):
    """The fewest guessed tokens still to come first, preemptive; prefill time is not counted, as in the artifact."""

    settled = True
    needs: ClassVar[frozenset[str]] = frozenset({"guess"})

    def rank(self, job: Job) -> int:
        return guess_of(job) - job.generated

    def explain(self, job: Job) -> str:
        return f"{guess_of(job) - job.generated} tokens left of {guess_of(job)} guessed"
