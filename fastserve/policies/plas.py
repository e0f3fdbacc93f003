"""PLAS, program-level attained service: Autellix (arXiv 2502.13965, "Agentix" at NSDI'26) for programs of one thread.

A multi-level queue over the service of whole programs. A call enters the queue of its program, by what the finished
calls of that program have been served, and not the first one; inside a queue it is first in, first out; a call that has
used up the queue's quantum goes one down. Against starvation: once waiting over service, of the program with this call,
reaches beta, the call goes to the first queue and its own counters begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve.policies.programs import Program, Programs
from fastserve.sched.checks import number, seconds
from fastserve.sched.job import NEVER, Job
from fastserve.sched.policy import Policy

LEVELS = 48
"""Queues: with quanta that double, more than any program reaches."""


class Served(Program):
    """served: ns of its finished calls, as this policy adds them up. waited: ns that these waited."""

    __slots__ = ("served", "waited")

    def __init__(self, name: str, began: int) -> None:
        super().__init__(name, began)
        self.served = 0
        self.waited = 0


class Call:
    """One live job. level, turn: its place. before: ns of its program's finished calls when it came. since, served: its
    own counters began at this time, with so much service.
    """

    __slots__ = ("before", "level", "served", "since", "turn")

    def __init__(self, before: int, since: int) -> None:
        self.before = before
        self.since = since
        self.served = 0
        self.level = 0
        self.turn = 0


class Plas(Policy):
    """Rank: (queue, turn). The queue of a call: the first whose quantum exceeds the service of its program's finished
    calls.

    q1: s, quantum of the first queue; 0: one decode iteration of the machine. ratio: of each quantum to the one above.
    beta: waiting over service at which a call goes to the first queue; 0: never. The paper publishes none of them.
    """

    settled = True

    def __init__(self, q1: float = 0.0, ratio: float = 2.0, beta: float = 16.0) -> None:
        seconds("q1", q1)
        number("ratio", ratio, 1)
        number("beta", beta, 0)
        self.q1 = round(q1 * 1e9)
        self.ratio = ratio
        self.beta = beta
        self.quanta: list[int] = []
        self.programs: Programs[Served] = Programs(Served)
        self.calls: dict[Job, Call] = {}
        self.turn = 0

    def rank(self, job: Job) -> tuple[int, int]:
        call = self.calls[job]
        return call.level, call.turn

    def arrive(self, job: Job) -> None:
        if not self.quanta:
            self._set_up()
        program = self.programs.arrive(job)
        self.calls[job] = Call(program.served, self.now)
        self._enter(job, self.level_of(program.served))

    def alarm(self, job: Job, why: str) -> None:
        call = self.calls[job]
        if why == "served":
            self._enter(job, min(call.level + 1, LEVELS - 1))
        elif self._patience(job) > 0:  # it has been served meanwhile: it starves later
            self.wake(job, waited=self._patience(job))
        else:
            call.since, call.served = self.now, job.served
            self._enter(job, 0)

    def depart(self, job: Job) -> None:
        call = self.calls.pop(job)
        program = self.programs.depart(job, self.now)
        program.waited += max(0, self.now - job.arrival - job.served)
        self.finished(program, call, job.served)

    def finished(self, program: Served, call: Call, served: int) -> None:
        """What a finished call adds to its program: here its service, and so the sum over all calls."""
        program.served += served

    def level_of(self, served: int) -> int:
        """The first queue whose quantum exceeds so many ns."""
        for level, quantum in enumerate(self.quanta):
            if quantum > served:
                return level
        return LEVELS - 1

    def explain(self, job: Job) -> str:
        call = self.calls[job]
        return f"Q{call.level + 1}, its program's finished calls were served {call.before / 1e9:.3f} s"

    def derived_settings(self) -> Mapping[str, Any]:
        return {"q1": (self.q1 or self.machine.decode_ns) / 1e9}

    def _set_up(self) -> None:
        quantum = float(self.q1 or self.machine.decode_ns)
        while len(self.quanta) < LEVELS:
            self.quanta.append(min(NEVER, round(quantum)))
            quantum *= self.ratio

    def _enter(self, job: Job, level: int) -> None:
        """Queue it at the end of this queue, with its whole quantum."""
        call = self.calls[job]
        self.turn += 1
        call.level, call.turn = level, self.turn
        self.rerank(job)
        self.wake(job, served=self.quanta[level], waited=self._patience(job) if level and self.beta else None)

    def _patience(self, job: Job) -> int:
        """ns of waiting until the waiting of its program and itself is beta times their service."""
        call, program = self.calls[job], self.programs.of[job]
        served = job.served - call.served
        waited = self.now - call.since - served
        return round(self.beta * (program.served + served)) - program.waited - waited
