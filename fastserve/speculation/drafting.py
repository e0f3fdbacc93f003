"""Drafting: whose next tokens are guessed in an iteration, and how many; the same for every body that verifies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastserve.hardware import LatencyModel
from fastserve.sched.job import Job
from fastserve.speculation.control import Controller
from fastserve.speculation.proposer import Ask, Proposer
from fastserve.speculation.spec import Speculate

PATIENCE: Final = 6
"""A job whose guesses came to nothing n times in a row is left alone for 2^n iterations less one, n at most this."""


class Drafting:
    """Asked by a body before an iteration, and told after it what became of the guesses and what it took."""

    def __init__(self, asked: Speculate, proposer: Proposer) -> None:
        self.asked = asked
        self.proposer = proposer
        self.controller: Controller | None = None  # until the times are known as many are guessed as is asked
        self._turn = 0
        self._misses: dict[Job, int] = {}  # times in a row that none of a job's guesses was right
        self._rests: dict[Job, int] = {}  # turn before which it is left alone

    def priced(self, latency: LatencyModel, draft: LatencyModel | None = None) -> None:
        """From now on as much is guessed as pays by these times. draft: of the model that guesses."""
        self.controller = Controller(latency, self.asked.k, draft)

    def k(self, batch: int, context: int) -> int:
        """Guesses for a job in the coming iteration; 0: for none, and nothing else need be done. batch: jobs that
        decode. context: their tokens, summed.
        """
        self._turn += 1
        if self.controller is None or not batch:
            return self.asked.k if batch else 0
        return self.controller.k(batch, context)

    def rests(self, job: Job) -> bool:
        """Its last guesses were wrong, so that it is not asked about this time."""
        return bool(self._rests) and self._rests.get(job, 0) > self._turn

    def drafts(self, asks: Sequence[Ask]) -> dict[Job, Sequence[int]]:
        """The guesses for each job that has some."""
        found = self.proposer.propose(asks)
        return {ask.job: tokens for ask, tokens in zip(asks, found, strict=True) if tokens}

    def verified(self, drafts: Sequence[tuple[Job, int, int]], without: int) -> None:
        """drafts: (job, drafted, accepted) of each that had some. without: how many others might have had."""
        controller = self.controller
        if controller is not None:
            for _, drafted, accepted in drafts:
                controller.saw(drafted, accepted)
            for _ in range(without):
                controller.saw(0, 0)
        for job, _, accepted in drafts:
            self.proposer.verified(job, accepted)
            if accepted:
                self._misses.pop(job, None)
            else:
                misses = self._misses[job] = min(PATIENCE, self._misses.get(job, 0) + 1)
                self._rests[job] = self._turn + (1 << misses)

    def took(self, batch: int, context: int, drafts: int, ns: int) -> None:
        """An iteration without prefills, which verified so many guesses all together, has taken so long."""
        if self.controller is not None:
            self.controller.timed(batch, context, drafts, ns)

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
