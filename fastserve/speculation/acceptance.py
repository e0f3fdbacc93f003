"""Acceptance: how often a guess is right; fitted to what was seen, and drawn from a seed.

A guess for a token of an answer is right with probability p, and each token of an answer independently of the others.
Jobs may differ: who copies its prompt is guessed better than who makes something up. What is verified ends at the first
guess that is wrong.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

from fastserve.sched.job import NEVER

LONGEST: Final = 4096
"""Right guesses in a row that one draw may give; longer rows go on with another."""


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
        if self.spread and not 0 <= self.spread**2 < self.p * (1 - self.p):
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
        raise ValueError("nothing was guessed there, so nothing is known of how often a guess is right")
    return Acceptance(right / (right + wrong), guessed / rows, provenance)


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
            if more < LONGEST:
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
