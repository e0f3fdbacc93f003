"""First come, first served by program: whose program began first goes first, at every turn.

The order of Continuum (arXiv 2511.02230) without its time to live, and the baseline of Autellix (arXiv 2502.13965).
"""

from __future__ import annotations

from fastserve.policies.programs import Program, Programs
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy


class ProgramFcfs(Policy):
    """Rank: arrival of the program's first job. A turn of an older program displaces one of a younger."""

    settled = True

    def __init__(self) -> None:
        self.programs: Programs[Program] = Programs(Program)

    def rank(self, job: Job) -> int:
        return self.programs.of[job].began

    def arrive(self, job: Job) -> None:
        self.programs.arrive(job)

    def depart(self, job: Job) -> None:
        self.programs.depart(job, self.now)

    def explain(self, job: Job) -> str:
        return f"its program began at {self.rank(job) / 1e9:.3f} s"
