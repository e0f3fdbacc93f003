"""Output-length predictors. The driver calls predict(job, truth) -> tokens before it submits the job.

An oracle is a predictor without error, so a run that used one says so in its own results.
"""

from __future__ import annotations

import math
import random
from typing import Protocol, TypeVar

from fastserve.sched.job import Job

N = TypeVar("N", int, float)


class Predictor(Protocol):
    """A guess may depend only on the seed and the job, so that all policies of a comparison see the same."""

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


def make(spec: str, seed: int = 0) -> Predictor | None:
    """From "oracle", "lognormal:0.5" (sigma), "constant:256" (tokens) or "none". ValueError for anything else."""
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
    except ValueError as error:
        raise ValueError(f"predictor {spec!r}: {error}") from None
    raise ValueError(f"no predictor {spec!r}; there are oracle, lognormal:SIGMA, constant:TOKENS and none")


def _number(kind: type[N], text: str, name: str, what: str) -> N:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} must be {what}") from None
