"""Output-length predictors. The driver calls predict(job, truth) -> tokens before it submits the job.

An oracle is a predictor without error, so a run that used one says so in its own results.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from fastserve.predictors.own import Own
from fastserve.sched.job import Job

N = TypeVar("N", int, float)

TRACE = "trace"
BUILT_IN = ("oracle", "lognormal", "constant", TRACE, "none")
KNOWN = "oracle, lognormal:SIGMA, constant:TOKENS, trace"


class Predictor(Protocol):
    """A guess may depend only on the seed and the job, so that all policies of a comparison see the same.

    truth: the output's length, from the trace; 0 where nobody knows it, on a live engine.
    """

    def predict(self, job: Job, truth: int) -> int: ...


class Oracle:
    """The true length."""

    def predict(self, job: Job, truth: int) -> int:
        return truth


class Lognormal:
    """The true length times exp(sigma * z), z standard normal, at least 1 token."""

    def __init__(self, sigma: float = 0.5, seed: int = 0) -> None:
        if sigma < 0:
            raise ValueError(f"lognormal: sigma={sigma} must not be negative")
        self.sigma = sigma
        self.seed = seed

    def predict(self, job: Job, truth: int) -> int:
        noise = random.Random(f"{self.seed}:{job.id}").gauss(0.0, self.sigma)
        return max(1, round(truth * math.exp(noise)))


class Constant:
    """The same guess for all jobs."""

    def __init__(self, tokens: int = 256) -> None:
        if tokens < 1:
            raise ValueError(f"constant: {tokens} tokens; guess at least 1")
        self.tokens = tokens

    def predict(self, job: Job, truth: int) -> int:
        return self.tokens


class FromTrace:
    """The trace's own guesses, by row."""

    def __init__(self, guesses: Sequence[int] | None) -> None:
        if guesses is None:
            raise ValueError(
                "the trace has no column of guesses (guess, predicted_output_tokens, num_predicted_decode_tokens; any "
                "other by --columns guess=NAME)"
            )
        missing = sum(not guess for guess in guesses)
        if missing:
            raise ValueError(f"{missing:,} of the {len(guesses):,} requests have no guess in the trace")
        self.guesses = guesses

    def predict(self, job: Job, truth: int) -> int:
        return self.guesses[job.id]


def check(spec: str) -> bool:
    """Whether it guesses anything, before a trace is read. ValueError as from make()."""
    return spec == TRACE or make(spec) is not None


def make(spec: str, seed: int = 0, guesses: Sequence[int] | None = None) -> Predictor | None:
    """From "oracle", "lognormal:0.5" (sigma), "constant:256" (tokens), "trace", "none", or module:Class.

    guesses: of the trace, by row, 0 where there is none; for "trace". ValueError for anything else.
    """
    name, _, argument = spec.partition(":")
    try:
        if name == "none" and not argument:
            return None
        if name == "oracle" and not argument:
            return Oracle()
        if name == "lognormal":
            return Lognormal(_number(float, argument or "0.5", "SIGMA", "a number"), seed)
        if name == "constant":
            return Constant(_number(int, argument or "256", "TOKENS", "a whole number"))
        if spec == TRACE:
            return FromTrace(guesses)
    except ValueError as error:
        raise ValueError(f"predictor {spec!r}: {error}") from None
    if is_own(spec):
        return Own(spec, seed)
    raise ValueError(f"no predictor {spec!r}; there are {KNOWN} and none, or give your own as module:Class")


def is_own(spec: str) -> bool:
    """Whether it is the address of a user's own."""
    name, colon, argument = spec.rpartition(":")
    return bool(colon and name and argument.isidentifier() and name not in BUILT_IN)


def _number(kind: type[N], text: str, name: str, what: str) -> N:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} must be {what}") from None
