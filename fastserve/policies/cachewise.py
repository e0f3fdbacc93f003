"""Fewest new tokens first: the order of CacheWise (arXiv 2606.16824), by what is not cached of a prompt."""

from __future__ import annotations

from fastserve.policies.lpm import Lpm
from fastserve.sched.job import Job


class CacheWise(Lpm):
    """All rank alike, so nobody is displaced; of those who wait, who has least to compute joins first.

    most: waiting jobs above which the order is first come, first served; 0: never.
    """

    def __init__(self, most: int = 0) -> None:
        super().__init__(most)

    def order(self, job: Job) -> int:
        return job.prompt + job.generated - job.cached

    def explain(self, job: Job) -> str:
        return f"{self.order(job):,} tokens to compute"
