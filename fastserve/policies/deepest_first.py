"""Deepest first: the turn of the program that has had most turns, with ageing; llm-d-router's turn priority (#2116).

There: priority = turn number + 0.5 * seconds waited, the larger first, for requests that wait in the router. The
opposite of least attained service: who is far is let through, so that its KV is freed. Waiting adds alike to all who
wait, so a rank never changes.
"""

from __future__ import annotations

from fastserve.policies.programs import Program, Programs
from fastserve.sched.checks import number
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy


class DeepestFirst(Policy):
    """Rank: who runs, runs to the end; then the largest turn + ageing * s waited.

    ageing: turns that a second of waiting is worth.
    """

    settled = True

    def __init__(self, ageing: float = 0.5) -> None:
        number("ageing", ageing, 0)
        self.ageing = ageing
        self.programs: Programs[Program] = Programs(Program)
        self.turn: dict[Job, int] = {}

    def rank(self, job: Job) -> tuple[bool, int]:
        return not job.running, round(self.ageing * job.arrival) - self.turn[job] * 1_000_000_000

    def arrive(self, job: Job) -> None:
        self.turn[job] = self.programs.arrive(job).turns

    def depart(self, job: Job) -> None:
        del self.turn[job]
        self.programs.depart(job, self.now)

    def explain(self, job: Job) -> str:
        return f"turn {self.turn[job]} of its program"
