"""Drafting: whose next tokens are guessed in an iteration, and how many; the same for every body that verifies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastserve.hardware import LatencyModel
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.speculation.control import Controller
from fastserve.speculation.proposer import Ask, Proposer
from fastserve.speculation.spec import Speculate

PATIENCE: Final = 6
"""A job whose guesses came to nothing n times in a row is left alone for 2^n iterations less one, n at most this."""


TRIES: Final = 4
"""Iterations of a size of batch (by powers of two) that are verified though it seems not to pay: predictions may be far
off until some have been timed."""

APART: Final = 16
"""Iterations from one try to the next."""

TRIED: Final = 4
"""Guesses of a try, all together: of a large batch some jobs are asked about."""


Guesses = Mapping[Job, Sequence[int]]
"""Of each job that has some, its next tokens in order."""


class Drafting:
    """Asked by a body before an iteration, and told after it what became of the guesses and what it took."""

    def __init__(self, asked: Speculate, proposer: Proposer) -> None:
        self.asked = asked
        self.proposer = proposer
        self.controller: Controller | None = None  # until the times are known as many are guessed as is asked
        self._turn = 0
        self._asked = False  # whether guesses were wanted in this iteration
        self._tries: dict[int, int] = {}  # by size of batch: how many there have been
        self._tried = -APART  # turn of the last one
        self._room = 0  # jobs that are asked about at most in this iteration
        self._without = 0  # jobs that were to be asked about in this iteration, and have no guesses
        self._misses: dict[Job, int] = {}  # times in a row that none of a job's guesses was right
        self._rests: dict[Job, int] = {}  # turn before which it is left alone

    def priced(self, latency: LatencyModel, max_batch: int) -> None:
        """From now on as much is guessed as pays by these times of the body. Before any request."""
        self.controller = Controller(latency, self.asked.k, self.proposer.latency(max_batch))

    def guesses(self, plan: Plan, states: Mapping[Job, tuple[Sequence[int], Sequence[int], Any]]) -> Guesses:
        """Of who decodes in this iteration, the guesses that are worth verifying; none that the limit of its output has
        no room for. states: of each its prompt, its tokens so far and what the proposer draws with, see Ask.
        """
        most = self.k(plan.batch, plan.context)
        self._asked = most > 0
        if not most:
            return {}
        asks = []
        for job, _ in plan.work[len(plan.prefill) :]:
            wanted = min(most, job.limit - job.generated - 1)
            if wanted > 0 and not self.rests(job):
                prompt, tokens, how = states[job]
                asks.append(Ask(job, prompt, tokens, wanted, how))
        return self.drafts(asks)

    def done(self, plan: Plan, told: Sequence[tuple[Job, int, int]], ns: int) -> None:
        """After that iteration. told: (job, drafted, accepted) of each that had guesses. ns: see took()."""
        if self._asked:
            self.verified(plan.batch, told)
        if plan.batch and not plan.prefill:
            self.took(plan.batch, plan.context, sum([drafted for _, drafted, _ in told]), ns)

    def k(self, batch: int, context: int) -> int:
        """Guesses for a job in the coming iteration; 0: for none, and nothing else need be done. batch: jobs that
        decode. context: their tokens, summed.
        """
        self._turn += 1
        self._without = 0
        self._room = batch
        if self.controller is None or not batch:
            return self.asked.k if batch else 0
        k = self.controller.k(batch, context)
        if k or self._turn < self._tried + APART or self._tries.get(batch.bit_length(), 0) >= TRIES:
            return k
        k = min(self.asked.k, max(1, TRIED // batch))
        self._room = TRIED // k
        return k

    def rests(self, job: Job) -> bool:
        """Its last guesses were wrong, so that it is not asked about this time."""
        if self._rests and self._rests.get(job, 0) > self._turn:
            self._without += 1
            return True
        return False

    def drafts(self, asks: Sequence[Ask]) -> dict[Job, Sequence[int]]:
        """The guesses for each job that has some."""
        asks = asks[: self._room]
        found = self.proposer.propose(asks)
        drafts = {ask.job: tokens for ask, tokens in zip(asks, found, strict=True) if tokens}
        self._without += len(asks) - len(drafts)
        return drafts

    def verified(self, batch: int, drafts: Sequence[tuple[Job, int, int]]) -> None:
        """After an iteration for which some were wanted. (job, drafted, accepted) of each that had some."""
        controller = self.controller
        if controller is not None:
            for _, drafted, accepted in drafts:
                controller.saw(drafted, accepted)
            for _ in range(self._without):
                controller.saw(0, 0)
        if drafts:
            size = batch.bit_length()
            self._tries[size] = self._tries.get(size, 0) + 1
            self._tried = self._turn
        for job, _, accepted in drafts:
            self.proposer.verified(job, accepted)
            if accepted:
                self._misses.pop(job, None)
            else:
                misses = self._misses[job] = min(PATIENCE, self._misses.get(job, 0) + 1)
                self._rests[job] = self._turn + (1 << misses)

    def took(self, batch: int, context: int, drafts: int, ns: int) -> None:
        """An iteration without prefills, which verified so many guesses all together, has taken so long: what came
        before, to guess, left out.
        """
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
