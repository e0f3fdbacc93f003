"""LatencyModel: the time of an iteration. Durations are whole picoseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isqrt, sqrt
from os import PathLike
from pathlib import Path
from typing import Final

from fastserve.sched.int64 import i64


class LatencyModel:
    """The time of one iteration, and of many decode iterations of one batch at once.

    Invariants of every subclass: `span_ps` is exactly the sum of its iterations; a decode iteration takes at least 1 ps
    and never less with more context; a prefill never takes less with more tokens. Whole numbers decide, floats guess.
    Subclasses override the four methods that raise here. Compiled, a span must fit 64 bits: 106 days.
    (No ABC: under mypyc 2.4 its instances crash the collector.)
    """

    name: str
    provenance: str

    def __init__(self, name: str, provenance: str) -> None:
        self.name = name
        self.provenance = provenance

    def iteration_ps(self, batch: i64, context: i64, chunks: Sequence[tuple[int, int]]) -> i64:
        """One iteration of `batch` decoding jobs and of prefill `chunks`, 0 if there is neither.

        context: sum over the decoding jobs of prompt + generated, the token being processed included.
        chunks: (tokens already cached, tokens to add) of each prefill in this iteration.
        """
        raise NotImplementedError

    def span_ps(self, k: i64, batch: i64, context: i64) -> i64:
        """k decode iterations of one batch of at least 1; each adds `batch` tokens to the context."""
        raise NotImplementedError

    def steps_for(self, ps: i64, batch: i64, context: i64) -> i64:
        """The smallest k >= 1 with span_ps(k, batch, context) >= ps. Constant time for any ps."""
        raise NotImplementedError

    def to_json(self) -> dict[str, object]:
        """The numbers as they were given, not as quantised; `from_json` builds the same model again."""
        raise NotImplementedError

    def last_ps(self, k: i64, batch: i64, context: i64) -> i64:
        """The longest of k decode iterations: the last, because the context only grows."""
        return self.iteration_ps(batch, context + (k - 1) * batch, ())

    def verify_ps(self, batch: i64, context: i64, drafts: i64, chunks: Sequence[tuple[int, int]] = ()) -> i64:
        """An iteration whose decoding jobs, at least 1, verify so many guesses of their next tokens, all together.

        A guess is one more token in the pass, at the end of a context that is there already: so it costs what one more
        decoding job would, less REREAD of the reading of its context, for the job's own token reads that, too; and all
        of them no less than a prompt of as many tokens. Each job has as many guesses and as much context as the mean.
        """
        ps = self.iteration_ps(batch, context, chunks)
        if drafts == 0:
            return ps
        rows = batch + drafts
        most = self.iteration_ps(rows, context + (drafts * context // batch * REREAD >> SHIFT), ())
        prompt = self.iteration_ps(0, 0, ((0, rows),))
        if prompt > most:
            most = prompt
        most -= self.iteration_ps(batch, context, ())
        return ps + most if most > 0 else ps

    def prefill_ns(self, tokens: int) -> int:
        """A whole prompt in an iteration of its own, to the nearest ns; policies read it as machine.prefill_ns."""
        return (self.iteration_ps(0, 0, ((0, tokens),)) + 500) // 1000

    @property
    def decode_ns(self) -> int:
        """One decode iteration of one job with one token of context, to the nearest ns."""
        return (self.iteration_ps(1, 1, ()) + 500) // 1000

    def alone_ps(self, prompt: int, output: int, token_budget: int | None, found: int = 0) -> int:
        """One job on the empty machine: prefill in chunks of token_budget (None: whole), then output - 1 decodes.

        found: tokens of the prompt, fewer than all, whose KV is there before.

        The prefill yields the first token. Takes time proportional to the number of chunks.
        """
        if prompt < 1 or output < 1:
            raise ValueError(f"a job needs at least 1 prompt and 1 output token, got {prompt} and {output}")
        if token_budget is not None and token_budget < 1:
            raise ValueError(f"token_budget must be at least 1 or None, got {token_budget}")
        size = prompt if token_budget is None else token_budget
        total = self.span_ps(output - 1, 1, prompt + 1)
        for cached in range(found, prompt, size):
            total += self.iteration_ps(0, 0, ((cached, min(size, prompt - cached)),))
        return total

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file that `load` reads; the folder must exist."""
        Path(path).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


SHIFT: Final = 16
"""Shares are whole numbers of 2 ** -16."""
REREAD: Final = 1 << 15
"""A half: measured on this package's own attention on a CPU, 0.4 at one job and 0.6 at 32."""
GUESSED: Final = 1 << 52
"""ps, 75 minutes: up to here floats are exact, and the root in floats is within a step or two of the true one."""


def steps_on_line(ps: i64, first: i64, growth: i64) -> i64:
    """The smallest k >= 1 with k * first + growth * k * (k - 1) / 2 >= ps, for first >= 1 and growth >= 0."""
    if ps <= first:
        return 1
    if growth == 0:
        return -(-ps // first)
    if ps >= GUESSED:
        return _steps_by_isqrt(ps, first, growth)
    # A guess in floats, by the form of the root that loses no digits; whole numbers decide.
    b = float(2 * first - growth)
    root = sqrt(b * b + 8.0 * float(growth) * float(ps))
    k: i64 = int(4.0 * float(ps) / (b + root)) if b > 0.0 else int((root - b) / (2.0 * float(growth)))
    if k < 1:
        k = 1
    while k * first + growth * (k * (k - 1) // 2) < ps:
        k += 1
    while k > 1 and (k - 1) * first + growth * ((k - 1) * (k - 2) // 2) >= ps:
        k -= 1
    return k


def _steps_by_isqrt(ps: int, first: int, growth: int) -> int:
    """The same in whole numbers of any size."""
    # floor((isqrt(d) - b) / 2a) is the floor of the real root, because b and 2a are whole; so one correction is enough
    b = 2 * first - growth
    k = (isqrt(b * b + 8 * growth * ps) - b) // (2 * growth)
    return k if k * first + growth * (k * (k - 1) // 2) >= ps else k + 1
