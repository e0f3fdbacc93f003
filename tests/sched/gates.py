"""Policies that hold back, release, keep and listen to ends of programs at random, and note whatever they may know."""

from __future__ import annotations

import random
from typing import Any

from fastserve.sched.job import Job
from fastserve.sched.policy import Policy

MS = 1_000_000


class Gate(Policy):
    """Deterministic for the same calls. noted: what it has read, in order, to be held against another run's."""

    settled = True

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.often = self.rng.choice([0.1, 0.5, 0.9])  # how often somebody is held back
        self.alarmed = self.rng.choice([0.2, 0.7, 1.0])  # how often with an alarm
        self.lets_go = self.rng.choice([0.0, 0.2, 0.6])  # how often somebody is released
        self.fickle = self.rng.choice([0.0, 0.02, 0.15])  # how often somebody gets another rank
        self.level: dict[Job, int] = {}
        self.noted: list[Any] = []

    def rank(self, job: Job) -> int:
        return self.level[job]

    def arrive(self, job: Job) -> None:
        self.level[job] = self.rng.randrange(4)
        self._note("arrive", job)
        if self.rng.random() < self.often:
            self._hold(job)
        self._stir(job)

    def depart(self, job: Job) -> None:
        del self.level[job]
        self._note("depart", job)
        self._keep(job.program)
        self.hold(job)  # too late: no effect, here and below
        self._stir(job)
        self.release(job)

    def alarm(self, job: Job, why: str) -> None:
        self._note(why, job)
        if why == "waited" and self.rng.random() < 0.5:
            self.release(job)
        self._stir(job)

    def ended(self, program: str) -> None:
        self.noted.append(("ended", self.now, program, self.context(program)))
        self._stir(None)

    def _hold(self, job: Job) -> None:
        self.hold(job)
        if self.rng.random() < self.alarmed:
            self.wake(job, waited=self.rng.choice([1, 7, 20, 60]) * MS)

    def _stir(self, job: Job | None) -> None:
        """Holds and releases others."""
        for other in self.jobs:
            dice = self.rng.random()
            if dice < self.fickle:
                self.level[other] = self.rng.randrange(4)
                self.rerank(other)
            elif other.running:
                continue
            elif dice < self.fickle + self.lets_go:
                self.release(other)
            elif dice > 0.95:
                self._hold(other)
            elif dice > 0.93:
                self.wake(other, waited=None)
        if job is not None and job in self.level and self.rng.random() < 0.1:
            self._keep(f"p{self.rng.randrange(8)}")
            self.wake(job, served=self.rng.randint(1, 30) * MS, tokens=self.rng.randint(1, 9))

    def _keep(self, program: str) -> None:
        dice = self.rng.random()
        if dice < 0.6:
            until = self.now + self.rng.choice([1, 5, 30, 100, 1000, 10**6]) * MS
            self.keep(program, until, self.rng.choice([None, None, 1, 2.5, -3]))
        elif dice < 0.7:
            self.keep(program, 0)

    def _note(self, what: str, job: Job) -> None:
        """What it may know, at this moment."""
        programs: list[Any] = sorted({other.program or str(other.id) for other in self.jobs})
        some = [*programs[-3:], job.program, job, *list(self.jobs)[:2]]
        facts = job.held_back, job.held, job.overruled, job.tool, job.final, job.calls
        pool = self.pool_used, self.pool_idle, self.machine.pool_tokens, self.machine.host_tokens
        alone = self.context(job.program), self.context(job)
        window = self.rng.choice([0, 1, 30, 500, 10**6]) * MS
        self.noted.append((what, self.now, job.id, facts, pool, alone, self.contexts(some), self.hits(window)))


class LooseGate(Gate):
    """It promises nothing, and ranks by what it has no business to rely on."""

    settled = False

    def rank(self, job: Job) -> tuple[int, int]:
        return job.held // (20 * MS), self.level[job]


class OwnGate(Gate):
    """With a queue of its own."""

    def rank(self, job: Job) -> int:
        return 0

    def waiting(self) -> list[Job]:
        return [job for job in reversed(list(self.level)) if not (job.running or job.held_back)]


GATES = {"gate": Gate, "loose-gate": LooseGate, "own-gate": OwnGate}
