"""Longest cached prefix first: SGLang's `lpm`, the order of its RadixAttention paper (arXiv 2312.07104)."""

from __future__ import annotations

from collections.abc import Iterable

from fastserve.sched.checks import at_least
from fastserve.sched.job import Job, age
from fastserve.sched.policy import Policy


class Lpm(Policy):
    """All rank alike, so nobody is displaced; of those who wait, who would find most of its prompt joins first.

    most: waiting jobs above which the order is first come, first served, as in SGLang; 0: never.
    """

    settled = True

    def __init__(self, most: int = 128) -> None:
        at_least("most", most, 0)
        self.most = most
        self.queue: dict[Job, None] = {}

    def rank(self, job: Job) -> int:
        return 0

    def arrive(self, job: Job) -> None:
        self.queue[job] = None

    def depart(self, job: Job) -> None:
        del self.queue[job]

    def waiting(self) -> Iterable[Job]:
        queue = sorted([job for job in self.queue if not job.running], key=age)
        if self.most and len(queue) > self.most:
            return queue
        return sorted(queue, key=self.order)

    def order(self, job: Job) -> int:
        """Of those who wait, the smaller joins first; on a tie who came first."""
        return -job.cached

    def explain(self, job: Job) -> str:
        return f"{job.cached:,} of {job.prompt + job.generated:,} tokens cached"
