"""Fixed priority: the shorter prompt goes first, preemptive; a baseline of the FastServe paper's ablation."""

from __future__ import annotations

from fastserve.sched.job import Job
from fastserve.sched.policy import Policy


class FixedPriority(Policy):
    """Rank: prompt tokens, fixed at arrival."""

    settled = True

    def rank(self, job: Job) -> int:
        return job.prompt

    def explain(self, job: Job) -> str:
        return f"prompt {job.prompt}"
