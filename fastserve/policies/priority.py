"""Priority: the request's own number decides, preemptive; the priority scheduling that vLLM and SGLang offer."""

from __future__ import annotations

from fastserve.sched.job import Job
from fastserve.sched.policy import Policy


class Priority(Policy):
    """Rank: the priority of the trace's column or of the request's field; the smaller, the sooner. Then by arrival."""

    settled = True

    def rank(self, job: Job) -> int:
        return job.priority

    def explain(self, job: Job) -> str:
        return f"priority {job.priority}"
