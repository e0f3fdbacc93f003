"""Policies that do what users' own may do: preempt all the time, break a promise, hold jobs back, raise in any hook."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from fastserve import Policy
from fastserve.sched.job import Job


class Rotate(Policy):
    """Round robin: after so many tokens, to the back."""

    settled = True

    def __init__(self, quantum: int = 3) -> None:
        self.quantum = quantum
        self.turn: dict[Job, int] = {}
        self.turns = 0

    def rank(self, job: Job) -> int:
        return self.turn[job]

    def arrive(self, job: Job) -> None:
        self.turns += 1
        self.turn[job] = self.turns
        self.wake(job, tokens=self.quantum)

    def alarm(self, job: Job, why: str) -> None:
        self.arrive(job)
        self.rerank(job)

    def depart(self, job: Job) -> None:
        del self.turn[job]


class Chaos(Policy):
    """Another order after every token: preempts all the time. What it says depends on what it sees alone."""

    def __init__(self, seed: int = 3) -> None:
        self.seed = seed

    def rank(self, job: Job) -> int:
        return hash((self.seed, job.id, job.generated, job.prefilled))


class Dice(Policy):
    """Ranks at random: another answer to the same question."""

    def __init__(self, seed: int = 3) -> None:
        self.random = random.Random(seed)

    def rank(self, job: Job) -> float:
        return self.random.random()


class Liar(Chaos):
    """Chaos that promises to be settled."""

    settled = True


class Holder(Rotate):
    """Holds every second job back, and releases it after a while or when somebody departs."""

    def __init__(self, quantum: int = 5, ms: int = 30) -> None:
        super().__init__(quantum)
        self.ms = ms
        self.back: list[Job] = []

    def arrive(self, job: Job) -> None:
        super().arrive(job)
        if job.id % 2:
            self.hold(job)
            self.back.append(job)
            self.wake(job, waited=self.ms * 1_000_000)

    def alarm(self, job: Job, why: str) -> None:
        if why == "waited":
            self._let_in(job)
        else:
            self.turns += 1
            self.turn[job] = self.turns
            self.wake(job, tokens=self.quantum)
            self.rerank(job)

    def depart(self, job: Job) -> None:
        super().depart(job)
        if job in self.back:
            self.back.remove(job)
        if self.back:
            self._let_in(self.back[0])

    def _let_in(self, job: Job) -> None:
        if job in self.back:
            self.back.remove(job)
        self.release(job)


class Warden(Policy):
    """Holds everybody back and releases nobody: the Scheduler overrules it."""

    settled = True

    def rank(self, job: Job) -> int:
        return job.id

    def arrive(self, job: Job) -> None:
        self.hold(job)


class Breaks(Rotate):
    """Works until the nth call of one hook, which raises, or answers what cannot be ordered (how="odd").

    For good: it raises from then on, whatever it is asked.
    """

    needs = frozenset({"guess"})

    def __init__(self, hook: str = "rank", after: int = 100, how: str = "raise") -> None:
        super().__init__()
        self.hook = hook
        self.left = after
        self.how = how

    def _count(self, hook: str) -> Any:
        if hook == self.hook:
            self.left -= 1
            if self.left < 0:
                if self.how == "exit":
                    raise SystemExit("this policy has had enough")
                if self.how == "interrupt":
                    raise KeyboardInterrupt
                if self.how == "outside":
                    raise GeneratorExit("no Exception, and nobody catches it")
                if self.how == "raise":
                    raise ZeroDivisionError("this policy is broken, as the test wants it")
                return object()
        return None

    def rank(self, job: Job) -> Any:
        return self._count("rank") or super().rank(job)

    def arrive(self, job: Job) -> None:
        self._count("arrive")
        super().arrive(job)

    def alarm(self, job: Job, why: str) -> None:
        self._count("alarm")
        super().alarm(job, why)

    def depart(self, job: Job) -> None:
        self._count("depart")
        super().depart(job)

    def coldest(self, parked: list[Job]) -> Iterable[Job]:
        return self._count("coldest") or super().coldest(parked)

    def ended(self, program: str) -> None:
        self._count("ended")

    def explain(self, job: Job) -> str:
        self._count("explain")
        return f"Q{self.turn[job] % 4}, turn {self.turn[job]}"
