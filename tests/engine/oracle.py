"""A proposer that knows what will be said, and errs as often as is asked: drafts right and wrong, of every length."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fastserve.sched.job import Job
from fastserve.speculation.proposer import Ask
from tests.backends.torch.families import VOCABULARY


class Oracle:
    """truth: the tokens of a job. right: how often a guess is meant to be."""

    def __init__(self, truth: Callable[[Job], Sequence[int]], seed: int = 0, right: float = 0.75) -> None:
        self.truth = truth
        self.right = right
        self.dice = random.Random(f"oracle {seed}")

    def propose(self, asks: Sequence[Ask]) -> list[Sequence[int]]:
        return [self._guess(ask) for ask in asks]

    def _guess(self, ask: Ask) -> list[int]:
        dice = self.dice
        coming = self.truth(ask.job)[len(ask.tokens) :]
        coming = [*coming, *[0] * ask.most][: dice.randint(0, ask.most)]
        return [token if dice.random() < self.right else dice.randrange(VOCABULARY) for token in coming]

    def verified(self, job: Job, accepted: int) -> None:
        pass

    def forget(self, job: Job) -> None:
        pass

    def reset(self) -> None:
        pass

    def latency(self, max_batch: int) -> None:
        return None

    def held(self) -> int:
        return 0

    def close(self) -> None:
        pass
