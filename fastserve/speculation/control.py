"""Controller: how many guesses a job should have verified in an iteration, by what that costs and what it yields.

More guesses are more tokens an iteration, and a longer iteration. While an iteration waits for weights, a few more
tokens in it are nearly free; in a large batch each costs as much as any other. So the number falls as the batch grows,
and is 0 where nothing is to be won. No clock: measured times are told, and simulated ones need not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastserve.hardware import LatencyModel

MEMORY: Final = 96.0
"""Verified guesses by which what was seen before has lost its weight."""
HOPE: Final = 0.6
"""Share of right guesses that is believed before any was seen."""
HOPED: Final = 4.0
"""As how many guesses that counts."""
MARGIN: Final = 0.02
"""Of time for each token: what must be won before anything is guessed."""
SEARCH: Final = 1 / 128
"""Of predicted time: what may be spent on guesses that are not worth it, to find out whether they would be."""
WHOLE: Final = 1 << 20
"""A search that is due."""
STEPS: Final = 32.0
"""Timed iterations of a kind by which what was measured before has lost its weight."""
ODD: Final = 4.0
"""By what factor an iteration may miss what was measured before. One that took longer was held up by something else,
and counts as this; one that was so much quicker shows that those before were held up, and begins anew.
"""


def step_ps(
    latency: LatencyModel, batch: int, context: int, drafts: int, chunks: Sequence[tuple[int, int]] = ()
) -> int:
    """ps of an iteration in which the decoding jobs verify so many guesses, all together; else as iteration_ps()."""
    return latency.verify_ps(batch, context, drafts, chunks) if drafts else latency.iteration_ps(batch, context, chunks)


class Controller:
    """One engine's, or one simulated machine's. most: guesses for each job.

    draft: the times of the model that guesses, which makes k iterations of its own for k guesses; None where guessing
    costs nothing.
    """

    def __init__(self, latency: LatencyModel, most: int, draft: LatencyModel | None = None) -> None:
        self.latency = latency
        self.most = most
        self.draft = draft
        self.trials = HOPED  # guesses that were looked at, older ones counting for less
        self.right = HOPE * HOPED
        self.rows = 0.0  # jobs that were asked for guesses
        self.guessed = 0.0  # of these, those for which there were any
        self._new = [0, 0, 0, 0]  # the same four, seen since k() was last asked: the order of jobs must not matter
        self._resting = 0  # the batch for which nothing is won; 0: none
        self._pace = 0  # what an iteration at rest adds to `_search`
        self._search = 0  # at WHOLE guesses are made to see whether they are right by now
        self._times: dict[tuple[int, bool], tuple[float, float]] = {}  # see timed(): (measured / predicted, weight)
        self._plain = 0  # iterations since one without guesses was timed

    @property
    def acceptance(self) -> float:
        """Share of right guesses among those that were looked at, of late."""
        return (self.right + self._new[1]) / (self.trials + self._new[0])

    @property
    def found(self) -> float:
        """Share of jobs for which there was a guess, of late."""
        rows = self.rows + self._new[2]
        return (self.guessed + self._new[3]) / rows if rows else 1.0

    def k(self, batch: int, context: int) -> int:
        """Guesses for each of `batch` decoding jobs in this iteration, 0 to `most`; asked once an iteration.

        context: tokens that they attend to, summed.
        """
        if self.most < 1 or batch < 1:
            return 0
        if batch == self._resting:
            self._search += self._pace
            if self._search < WHOLE:
                return 0
        self._take()
        plain = float(self.latency.iteration_ps(batch, context, ()))
        best, least = 0, plain * (1 - MARGIN)
        p, found = self.acceptance, self.found
        dearer = self._dearer(batch)
        tokens = power = 1.0
        more = 0.0  # ps that one guess for each adds
        for k in range(1, self.most + 1):
            power *= p
            tokens += found * power
            ps = self._guessing(k, batch, context) + dearer * self._verifying(k, batch, context, found)
            if k == 1:
                more = ps - plain
            if ps < least * tokens:
                best, least = k, ps / tokens
        if best == 0:
            self._resting = batch
            self._pace = WHOLE if more <= SEARCH * plain else max(1, int(WHOLE * SEARCH * plain / more))
            if self._search < WHOLE:
                return 0
            self._search = 0
            return 1
        self._resting = self._search = 0
        if self._times:
            self._plain += 1
            if self._plain * SEARCH >= 1:  # what a plain one takes must stay known
                self._plain = 0
                return 0
        return best

    def idle(self) -> int:
        """After k() has answered 0: for how many more iterations of this batch it will, whatever the context."""
        return (WHOLE - 1 - self._search) // self._pace if self._resting else 0

    def passed(self, iterations: int) -> None:
        """So many of the idle() ones have been run, and k() was not asked."""
        self._search += iterations * self._pace

    def saw(self, drafted: int, accepted: int) -> None:
        """What became of one job's guesses in one iteration; (0, 0) if it was asked for some and there were none."""
        new = self._new
        new[0] += accepted + (accepted < drafted)
        new[1] += accepted
        new[2] += 1
        new[3] += drafted > 0

    def _take(self) -> None:
        """What was seen comes in, and what is older loses as much of its weight."""
        trials, right, rows, guessed = self._new
        if rows:
            self._new = [0, 0, 0, 0]
            self.trials, self.right = _faded(self.trials + trials, self.right + right)
            self.rows, self.guessed = _faded(self.rows + rows, self.guessed + guessed)

    def timed(self, batch: int, context: int, drafts: int, ns: int) -> None:
        """What an iteration without prefills has taken, of which this many guesses were verified, all together."""
        kind = batch.bit_length(), drafts > 0
        ratio = ns * 1000 / max(1, step_ps(self.latency, batch, context, drafts))
        mean, weight = self._times.get(kind, (0.0, 0.0))
        if weight and ratio > ODD * mean > 0:
            ratio = ODD * mean
        elif ratio * ODD < mean:
            weight = 0.0
        weight = min(weight + 1, STEPS)
        self._times[kind] = mean + (ratio - mean) / weight, weight

    def _verifying(self, k: int, batch: int, context: int, found: float) -> float:
        return float(step_ps(self.latency, batch, context, max(1, round(found * k * batch))))

    def _guessing(self, k: int, batch: int, context: int) -> float:
        return 0.0 if self.draft is None else float(self.draft.span_ps(k, batch, context))

    def _dearer(self, batch: int) -> float:
        """By what factor an iteration that verifies misses its prediction more than one that does not."""
        size = batch.bit_length()
        with_, without = self._times.get((size, True)), self._times.get((size, False))
        return with_[0] / without[0] if with_ is not None and without is not None and without[0] > 0 else 1.0


def _faded(count: float, of_them: float) -> tuple[float, float]:
    return (MEMORY, of_them * MEMORY / count) if count > MEMORY else (count, of_them)
