"""Proposer: the protocol of who guesses the next tokens of jobs. A wrong guess costs time and never changes a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from fastserve.hardware import LatencyModel
from fastserve.sched.job import Job


class Ask(NamedTuple):
    """A job whose next tokens are to be guessed.

    prompt, tokens: all that is known of its text; both only ever grow at the end of `tokens`. most: guesses, at least
    1. how: what a body's own proposer draws with; others do not look at it.
    """

    job: Job
    prompt: Sequence[int]
    tokens: Sequence[int]
    most: int
    how: Any = None


class Proposer(Protocol):
    """It may forget anything at any time, which costs guesses. Called by the engine's thread alone."""

    def propose(self, asks: Sequence[Ask]) -> list[Sequence[int]]:
        """For each, its next tokens in order, at most as many as it asks for; none is fine."""
        ...

    def verified(self, job: Job, accepted: int) -> None:
        """So many of the last guesses for the job, from the first one on, were right."""
        ...

    def forget(self, job: Job) -> None:
        """It has departed; one that was never asked for is ignored."""
        ...

    def reset(self) -> None:
        """The device has lost its memory, or needs it. The jobs stay."""
        ...

    def latency(self, max_batch: int) -> LatencyModel | None:
        """Times of the model that guesses, an iteration of its own for each guess of all jobs; None where guessing
        costs next to nothing. Asked before any request.
        """
        ...

    def held(self) -> int:
        """Jobs of which it remembers something."""
        ...

    def close(self) -> None:
        """The engine has ended."""
        ...
