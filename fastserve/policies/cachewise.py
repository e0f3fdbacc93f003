"""CacheWise (arXiv 2606.16824): the turn with the fewest tokens to compute goes first, and the cached context of the
program that is expected back last goes first.
"""

from __future__ import annotations

from fastserve.policies.gaps import ToolGaps
from fastserve.policies.lpm import Lpm
from fastserve.policies.programs import Program, Programs
from fastserve.sched.job import Job

LONGEST = 3600 * 10**9
"""ns: for this long at most a context is kept before others."""


class Caller(Program):
    """calls: the tool that it waits for while it is idle, "" if that is not known. since: ns, when it went idle."""

    __slots__ = ("calls", "since")

    def __init__(self, name: str, began: int) -> None:
        super().__init__(name, began)
        self.calls = ""
        self.since = 0


class CacheWise(Lpm):
    """All rank alike, so nobody is displaced; of those who wait, who has least to compute joins first.

    most: waiting jobs above which the order is first come, first served; 0: never.
    """

    def __init__(self, most: int = 0) -> None:
        super().__init__(most)
        self.programs: Programs[Caller] = Programs(Caller)
        self.gaps = ToolGaps(1000)

    def order(self, job: Job) -> int:
        return job.prompt + job.generated - job.cached

    def arrive(self, job: Job) -> None:
        super().arrive(job)
        program = self.programs.arrive(job)
        tool, program.calls = program.calls, ""
        if tool:
            self.gaps.add(tool, self.now - program.since)

    def depart(self, job: Job) -> None:
        super().depart(job)
        program = self.programs.depart(job, self.now)
        if job.program and not program.live:
            program.calls, program.since = "" if job.final else job.calls, self.now
            gaps = self.gaps.of(program.calls)
            if gaps:
                self.keep(program.name, self.now + LONGEST, -(self.now + sum(gaps) / len(gaps)))
            else:
                self.keep(program.name, 0)

    def ended(self, program: str) -> None:
        self.programs.forget(program)
        self.keep(program, 0)

    def explain(self, job: Job) -> str:
        return f"{self.order(job):,} tokens to compute"
