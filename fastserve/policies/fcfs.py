"""First come, first served, run to completion: the baseline of every paper."""

from __future__ import annotations

from fastserve.sched.job import Job
from fastserve.sched.policy import Policy


class Fcfs(Policy):
    """Rank: arrival. Nobody is displaced but for memory, and then the youngest."""

    settled = True

    def rank(self, job: Job) -> int:
        return job.arrival

    def explain(self, job: Job) -> str:
        return f"arrived at {job.arrival / 1e9:.3f} s"
