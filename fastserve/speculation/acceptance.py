"""Acceptance: how often a guess is right; fitted to what was seen, and drawn from a seed.

A guess for a token of an answer is right with probability p, and each token of an answer independently of the others.
Jobs may differ: who copies its prompt is guessed better than who makes something up. What is verified ends at the first
guess that is wrong.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

from fastserve.sched.job import NEVER

MOST_SPREAD: Final = 0.95
"""Of the deviation that p(1 - p) leaves room for: that of jobs of which each guess is right, or none."""
MUCH: Final = 20
"""Guesses of a job, see between()."""
NOTHING: Final = "nothing was guessed there, so nothing is known of how often a guess is right"
LONGEST: Final = 4096
"""Right guesses in a row that one draw may give; longer rows go on with another."""
BEYOND: Final = 1 << 20
"""Right guesses in a row that are enough for any answer."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """p: the probability that a guess is right if those before it are. found: the share of a job's iterations that have
    a guess at all, as an n-gram must have occurred before. Both 0 to 1. spread: the standard deviation of p between
    jobs, of which p is the mean (a beta distribution). ValueError for anything else.
    """

    p: float
    found: float = 1.0
    provenance: str = ""
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("acceptance", self.p), ("found", self.found)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value} must be a share, 0 to 1")
        if self.spread and not (self.spread > 0 and self.spread**2 < self.p * (1 - self.p)):
            most = (self.p * (1 - self.p)) ** 0.5
            raise ValueError(f"spread {self.spread}: between jobs that are right {self.p:g} of the time in the mean, "
                             f"the deviation is 0 or more and below {most:.3g}")  # fmt: skip

    def of_job(self, rng: random.Random) -> float:
        """One job's own p, in hundredths where jobs differ."""
        if not self.spread:
            return self.p
        size = self.p * (1 - self.p) / self.spread**2 - 1
        return round(rng.betavariate(self.p * size, (1 - self.p) * size), 2)

    def expected(self, k: int) -> float:
        """Tokens of an iteration of a job that verifies k guesses: 1 + p + ... + p^k = (1 - p^(k+1)) / (1 - p)."""
        total = power = 1.0
        for _ in range(k):
            power *= self.p
            total += power
        return total

    def to_json(self) -> dict[str, Any]:
        told = {"provenance": self.provenance} if self.provenance else {}
        spread = {"spread": self.spread} if self.spread else {}
        return {"acceptance": self.p, "found": self.found, **spread, **told}


def fitted(counts: Iterable[tuple[int, int]], provenance: str = "") -> Acceptance:
    """The likeliest p for (drafted, accepted) of one job and iteration each; (0, 0) for one without a guess.

    Each right guess is a success, and the first wrong one a failure: what stands behind it was not looked at.
    ValueError where nothing was guessed.
    """
    right = wrong = guessed = rows = 0
    for drafted, accepted in counts:
        rows += 1
        if drafted:
            guessed += 1
            right += accepted
            wrong += accepted < drafted
    if not guessed:
        raise ValueError(NOTHING)
    return Acceptance(right / (right + wrong), guessed / rows, provenance)


def between(jobs: Iterable[Sequence[tuple[int, int]]]) -> tuple[float, float]:
    """The mean of p over jobs and its standard deviation between them, beyond what chance makes of an equal p: by the
    analysis of variance.

    jobs: (drafted, accepted) of the iterations of each. In the mean a job counts for as much as it was guessed for, up
    to MUCH. ValueError where nothing was guessed.
    """
    counts = []
    for job in jobs:
        right = sum([accepted for _, accepted in job])
        trials = right + sum([accepted < drafted for drafted, accepted in job])
        if trials:
            counts.append((trials, right / trials))
    if not counts:
        raise ValueError(NOTHING)
    total = sum([trials for trials, _ in counts])
    pooled = sum([trials * share for trials, share in counts]) / total
    mean = sum([min(trials, MUCH) * share for trials, share in counts]) / sum(
        [min(trials, MUCH) for trials, _ in counts]
    )
    if len(counts) < 2 or total <= len(counts):
        return pooled, 0.0
    among = sum([trials * (share - pooled) ** 2 for trials, share in counts]) / (len(counts) - 1)
    within = sum([trials * share * (1 - share) for trials, share in counts]) / (total - len(counts))
    size = (total - sum([trials * trials for trials, _ in counts]) / total) / (len(counts) - 1)
    spread: float = max(0.0, (among - within) / size) ** 0.5 if size > 0 else 0.0
    return mean, min(spread, MOST_SPREAD * (mean * (1 - mean)) ** 0.5)


def read_acceptance(path: str | PathLike[str]) -> Acceptance:
    """Of a JSON file as to_json() has it. OSError; ValueError for anything else in it."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        p, found, spread = float(data["acceptance"]), float(data.get("found", 1.0)), float(data.get("spread", 0.0))
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(
            f"{path} holds no acceptance: write one with `fastserve profile --from-log LOG --acceptance FILE`, or "
            f'{{"acceptance": 0.7}} by hand'
        ) from None
    return Acceptance(p, found, str(data.get("provenance", "")), spread)


class Draws:
    """What becomes of guesses. It depends on the seed, the job and the place of the token in its answer, and on nothing
    else: so all policies, and all numbers of guesses, meet the same.
    """

    def __init__(self, acceptance: Acceptance, seed: int) -> None:
        self.acceptance = acceptance
        self.seed = seed
        self._right: dict[float, _Rows] = {}  # by a job's own p
        self._found = _Rows(acceptance.found)
        self._jobs: dict[int, tuple[_Places, _Places]] = {}

    def drafted(self, job: int, at: int, most: int) -> int:
        """How many guesses there are for the tokens of its answer from number `at` on: `most`, or none."""
        return most if self._found.all or self._of(job)[1].next(at) != at else 0

    def accepted(self, job: int, at: int, drafted: int) -> int:
        """How many of so many guesses are right. `at` never falls."""
        return min(drafted, self._of(job)[0].next(at) - at)

    def forget(self, job: int) -> None:
        self._jobs.pop(job, None)

    def _of(self, job: int) -> tuple[_Places, _Places]:
        places = self._jobs.get(job)
        if places is None:
            seeds = [random.Random(f"{self.seed}:{job}:{what}") for what in ("right", "found")]
            p = self.acceptance.of_job(seeds[0])
            rows = self._right.get(p)
            if rows is None:
                rows = self._right[p] = _Rows(p)
            places = self._jobs[job] = (_Places(rows, seeds[0]), _Places(self._found, seeds[1]))
        return places


class _Rows:
    """Lengths of rows of successes, each with probability p."""

    def __init__(self, p: float) -> None:
        self.all = p >= 1
        self._beyond: list[float] = []  # -p^n for n = 1, 2, ...: the chance of so many, negated to be ascending
        power = p
        while 2.0**-53 <= power < 1 and len(self._beyond) < LONGEST:
            self._beyond.append(-power)
            power *= p

    def draw(self, rng: random.Random) -> int:
        if self.all:
            return NEVER
        length = 0
        while True:
            more = bisect_left(self._beyond, -rng.random())
            length += more
            if more < LONGEST or length > BEYOND:
                return length


class _Places:
    """The places of failures, in order, as far as they were asked for."""

    def __init__(self, rows: _Rows, rng: random.Random) -> None:
        self._rows = rows
        self._rng = rng
        self._at = rows.draw(rng)

    def next(self, at: int) -> int:
        """The first one at `at` or behind it."""
        while self._at < at:
            self._at += 1 + self._rows.draw(self._rng)
        return self._at
