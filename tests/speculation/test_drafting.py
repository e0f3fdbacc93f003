"""Whose next tokens are guessed, and how many: tries before times are known, rest for who is guessed wrongly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from fastserve.hardware import load_hardware
from fastserve.sched.job import Job
from fastserve.speculation.drafting import APART, PATIENCE, TRIED, TRIES, Drafting
from fastserve.speculation.ngram import Ngrams
from fastserve.speculation.proposer import Ask
from fastserve.speculation.spec import Speculate


class Parrot(Ngrams):
    """Always guesses; `asked` are the jobs of the last time."""

    def propose(self, asks: Sequence[Ask]) -> list[Sequence[int]]:
        self.asked = [ask.job for ask in asks]
        return [[1] * ask.most for ask in asks]


class Never:
    """A controller to whom it never seems to pay. saw, timed: what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def k(self, batch: int, context: int) -> int:
        return 0

    def saw(self, drafted: int, accepted: int) -> None:
        self.told.append((drafted, accepted))

    def timed(self, batch: int, context: int, drafts: int, ns: int) -> None:
        pass


def drafting(k: int = 4, controller: Any = None) -> Drafting:
    made = Drafting(Speculate("ngram", k), Parrot())
    made.controller = controller
    return made


def jobs(n: int) -> list[Job]:
    return [Job(i, 0, 10, 100) for i in range(n)]


def turn(made: Drafting, batch: list[Job], accepted: int) -> int:
    """An iteration in which so many of each job's guesses are right; how many were guessed for, those at rest not."""
    k = made.k(len(batch), 100 * len(batch))
    if not k:
        return 0
    asks = [Ask(job, [1], [1], k) for job in batch if not made.rests(job)]
    drafts = made.drafts(asks)
    made.verified(len(batch), [(job, len(tokens), min(accepted, len(tokens))) for job, tokens in drafts.items()])
    return len(drafts)


def test_until_times_are_known_as_many_are_guessed_as_is_asked() -> None:
    made = drafting(3)
    assert made.k(5, 500) == 3
    assert made.k(0, 0) == 0
    made.priced(load_hardware("opt-13b-a100").latency, 8)
    assert made.controller is not None
    assert 0 < made.k(1, 100) <= 3


def test_who_is_guessed_wrongly_is_left_alone_for_longer_and_longer() -> None:
    made = drafting()
    (job,) = jobs(1)
    guessed = [turn(made, [job], 0) for _ in range(200)]
    at = [i for i, one in enumerate(guessed) if one]
    waits = [b - a for a, b in itertools.pairwise(at)]
    assert waits[:PATIENCE] == [2**n for n in range(1, PATIENCE + 1)]
    assert max(waits) == 2**PATIENCE
    while not turn(made, [job], 1):
        pass
    assert turn(made, [job], 0) == 1  # one that was right, and it is asked about at once
    made.forget(job)
    assert made.held() == 0
    assert turn(made, [job], 0) == 1


def test_a_few_iterations_of_each_size_are_tried_whatever_is_predicted() -> None:
    controller = Never()
    made = drafting(4, controller)
    few, many = jobs(2), jobs(32)
    tried = [turn(made, many, 1) for _ in range(APART * (TRIES + 2))]
    assert [n for n in tried if n] == [TRIED] * TRIES
    at = [i for i, n in enumerate(tried) if n]
    assert all(b - a >= APART for a, b in itertools.pairwise(at))
    assert (
        controller.told == [(1, 1)] * TRIED * TRIES
    )  # who was not asked about says nothing of how often there are guesses
    tried = [turn(made, few, 1) for _ in range(APART * (TRIES + 2))]
    assert [n for n in tried if n] == [2] * TRIES


def test_who_has_no_guesses_is_told_too() -> None:
    class Half(Parrot):
        def propose(self, asks: Sequence[Ask]) -> list[Sequence[int]]:
            return [[1] if ask.job.id % 2 else [] for ask in asks]

    controller = Never()
    made = Drafting(Speculate("ngram", 1), Half())
    made.controller = controller  # type: ignore[assignment]
    turn(made, jobs(4), 1)
    assert sorted(controller.told) == [(0, 0), (0, 0), (1, 1), (1, 1)]
