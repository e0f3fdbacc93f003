"""Programs, as policies know them: the requests of one agent or conversation, told by their name.

A job without a program is its own program, and is forgotten when it has ended. What a program's requests ask never
depends on the policy; when they come does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from fastserve.sched.job import Job

KEPT = 100_000
"""Programs without a live job that are remembered; beyond these the one that has been idle longest is forgotten. Many
clients never say that their program is over.
"""


class Program:
    """One program. Policies that keep more of it make a subclass.

    began: ns, arrival of its first job. turns: jobs that have come. live: its jobs that have come and not ended. idle:
    ns, when the last of them ended; -1 while there are any.
    """

    __slots__ = ("began", "idle", "live", "name", "turns")

    def __init__(self, name: str, began: int) -> None:
        self.name = name
        self.began = began
        self.turns = 0
        self.live: dict[Job, None] = {}
        self.idle = -1

    @property
    def age(self) -> tuple[int, str]:
        """The order of programs: who began first, then the name."""
        return self.began, self.name

    @property
    def running(self) -> bool:
        """Has one of its jobs a place in the batch?"""
        return any(job.running for job in self.live)


P = TypeVar("P", bound=Program)


class Programs(Generic[P]):
    """The programs that a policy knows, by name and by live job. kind: makes one, of its name and the ns it began."""

    def __init__(self, kind: Callable[[str, int], P]) -> None:
        self.kind = kind
        self.known: dict[str, P] = {}
        self.of: dict[Job, P] = {}
        self.idle: dict[str, P] = {}  # those without a live job, who went idle first

    def arrive(self, job: Job) -> P:
        """A job came. Returns its program, which is live now."""
        name = name_of(job)
        program = self.known.get(name)
        if program is None:
            program = self.known[name] = self.kind(name, job.arrival)
        self.idle.pop(name, None)
        program.idle = -1
        program.turns += 1
        program.live[job] = None
        self.of[job] = program
        return program

    def depart(self, job: Job, now: int) -> P:
        """It has ended. Returns its program, which may be idle now."""
        program = self.of.pop(job)
        del program.live[job]
        if not program.live:
            program.idle = now
            if job.program:
                self.idle[program.name] = program
                if len(self.idle) > KEPT:
                    self.forget(next(iter(self.idle)))
            else:
                del self.known[program.name]
        return program

    def forget(self, name: str) -> P | None:
        """Nothing of it follows. Returns it if it was known and has no live job."""
        if name not in self.idle:
            return None
        del self.idle[name]
        return self.known.pop(name)


def name_of(job: Job) -> str:
    """Of its program. A job without one is its own; no client can send such a name."""
    return job.program or f"\0{job.id}"
