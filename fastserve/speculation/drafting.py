"""Drafting: whose next tokens are guessed in an iteration, and how many; the same for every body that verifies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from fastserve.sched.job import Job
from fastserve.speculation.proposer import Ask, Proposer
from fastserve.speculation.spec import Speculate

PATIENCE: Final = 6
"""A job whose guesses came to nothing n times in a row is left alone for 2^n iterations less one, n at most this."""


class Controller(Protocol):
    """How many tokens of each job are worth guessing; see speculation.control."""

    def k(self, batch: int, context: int) -> int: ...
    def saw(self, drafted: int, accepted: int) -> None: ...


class Fixed:
    """A Controller that always wants as many."""

    def __init__(self, most: int) -> None:
        self.most = most

    def k(self, batch: int, context: int) -> int:
        return self.most

    def saw(self, drafted: int, accepted: int) -> None:
        pass


class Drafting:
    """Asked by a body before an iteration, and told after it what became of the guesses."""

    def __init__(self, asked: Speculate, proposer: Proposer, controller: Controller) -> None:
        self.asked = asked
        self.proposer = proposer
        self.controller = controller
        self._turn = 0
        self._misses: dict[Job, int] = {}  # times in a row that none of a job's guesses was right
        self._rests: dict[Job, int] = {}  # turn before which it is left alone

    def k(self, batch: int, context: int) -> int:
        """Guesses for a job in the coming iteration; 0: for none, and nothing else need be done. batch: jobs that
        decode. context: their tokens, summed.
        """
        self._turn += 1
        return min(self.asked.k, self.controller.k(batch, context)) if batch else 0

    def rests(self, job: Job) -> bool:
        """Its last guesses were wrong, so that it is not asked about this time."""
        return bool(self._rests) and self._rests.get(job, 0) > self._turn

    def drafts(self, asks: Sequence[Ask]) -> dict[Job, Sequence[int]]:
        """The guesses for each job that has some."""
        found = self.proposer.propose(asks)
        return {ask.job: tokens for ask, tokens in zip(asks, found, strict=True) if tokens}

    def verified(self, drafts: Sequence[tuple[Job, int, int]]) -> None:
        """(job, drafted, accepted) of each that had some."""
        for job, drafted, accepted in drafts:
            self.controller.saw(drafted, accepted)
            self.proposer.verified(job, accepted)
            if accepted:
                self._misses.pop(job, None)
            else:
                misses = self._misses[job] = min(PATIENCE, self._misses.get(job, 0) + 1)
                self._rests[job] = self._turn + (1 << misses)

    def forget(self, job: Job) -> None:
        self.proposer.forget(job)
        self._misses.pop(job, None)
        self._rests.pop(job, None)

    def reset(self) -> None:
        self.proposer.reset()

    def held(self) -> int:
        """Jobs of which something is remembered."""
        return max(self.proposer.held(), len(self._misses), len(self._rests))

    def close(self) -> None:
        self.proposer.close()
        self._misses.clear()
        self._rests.clear()
