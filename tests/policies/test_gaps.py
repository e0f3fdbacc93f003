"""How long to keep something for an absent program: against numbers worked by hand, and sums over small steps."""

from __future__ import annotations

import random
from math import log

import pytest

from fastserve.policies.gaps import Gaps, Recent


def seen(*gaps: int, away: tuple[int, ...] = (), now: int = 10**6, **shape: float) -> Gaps:
    """Absences of so many ns that are over, and some that have lasted so long by `now`."""
    book = Gaps(**shape)  # type: ignore[arg-type]
    for i, gap in enumerate(gaps):
        book.left(f"p{i}", 0)
        book.back(f"p{i}", gap)
    for i, age in enumerate(away):
        book.left(f"away{i}", now - age)
    return book


def by_steps(book: Gaps, age: int, now: int, lose: float, rate: float, step: float = 0.01) -> tuple[float, float]:
    """The same from the definition: added up in small steps, and the best of all ages to stop at."""
    over = [gap for gap in book.gaps if gap > age]
    still = [now - absence.since for absence in book.away.values() if now - absence.since > age]
    start = float(max(age, 1))
    weight = len(over) + len(still)
    stays, spent, best, until = 1.0, 0.0, 0.0, start
    t, end = start, max([*over, *still, lose / rate, start]) + 1
    while t < end:
        for gap in sorted(gap for gap in over if t <= gap < t + step):
            stays *= 1 - 1 / sum(other >= gap for other in over + still)
            over.remove(gap)
        spent += (weight * stays + book.prior * start / t) / (weight + book.prior) * step
        t += step
        gained = lose * (1 - (weight * stays + book.prior * start / t) / (weight + book.prior)) - rate * spent
        if gained > best:
            best, until = gained, t
    return best, until


def test_with_nothing_seen_it_is_the_competitive_rule() -> None:
    """Kept until it has cost what losing costs: 100 ns at 1 a ns. At 10 ns: 100 * (1 - 10/100) - 10 * ln(100/10)."""
    gained, until = seen().worth(10, 0, 100.0, 1.0)
    assert until == 100 and gained == pytest.approx(90 - 10 * log(10))
    assert seen().worth(100, 0, 100.0, 1.0) == (0.0, 100)
    assert seen().worth(150, 0, 100.0, 1.0) == (0.0, 150)
    assert seen().worth(10, 0, 100.0, 4.0)[1] == 25, "four times as dear: a quarter as long"


def test_everybody_has_come_back_by_30() -> None:
    """Nine gaps of 30 ns, and one of which nothing is known. What is lost costs 25: at 1 ns nine tenths of that are not
    worth 26 ns of keeping, at 10 ns they are worth 18.
    """
    book = seen(*[30] * 9)
    assert book.worth(1, 0, 25.0, 1.0)[1] < 30
    gained, until = book.worth(10, 0, 25.0, 1.0)
    assert until == 30
    assert gained == pytest.approx(25 * (0.9 + 0.1 * 20 / 30) - 0.9 * 20 - 0.1 * 10 * log(3))
    assert book.worth(30, 0, 25.0, 1.0) == (0.0, 30), "and not beyond"
    assert book.worth(30, 0, 40.0, 1.0)[1] == 40, "nothing was seen beyond: the blind rule"


def test_gaps_that_are_too_long_are_not_waited_for() -> None:
    """All nine take 1,000 ns at 1 a ns, and losing costs 50."""
    book = seen(*[1000] * 9)
    assert book.worth(50, 0, 50.0, 1.0) == (0.0, 50)
    gained, until = book.worth(1, 0, 50.0, 1.0)
    assert until == 2 and gained < 2, "but for the one of which nothing is known: 50 / t^2 is 9 + 1 / t at 2.3 ns"


def test_who_is_away_still_counts_as_longer_than_now() -> None:
    """Half of them came back after 10 ns, the others never: past 10 ns nothing is worth waiting for."""
    book = seen(*[10] * 5, away=(10**6,) * 5)
    assert book.worth(1, 10**6, 30.0, 1.0)[1] == 10
    assert book.worth(11, 10**6, 30.0, 1.0) == (0.0, 11)
    assert seen(*[10] * 5).worth(11, 10**6, 30.0, 1.0)[1] == 30, "had all come back, the rule would be the blind one"


def test_a_program_that_is_over_was_no_absence() -> None:
    book = seen(*[10] * 5, away=(500,) * 5)
    for i in range(5):
        book.over(f"away{i}")
    assert book.worth(1, 10**6, 30.0, 1.0) == seen(*[10] * 5).worth(1, 10**6, 30.0, 1.0)
    book.over("nobody")


@pytest.mark.parametrize("seed", range(12))
def test_the_sums_are_those_of_small_steps(seed: int) -> None:
    rng = random.Random(seed)
    book = seen(
        *[rng.randint(1, 60) for _ in range(rng.randint(0, 12))],
        away=tuple(rng.randint(1, 60) for _ in range(rng.randint(0, 6))), prior=rng.choice([0.5, 1.0, 3.0]),
    )  # fmt: skip
    age, lose, rate = rng.randint(1, 40), rng.uniform(5, 80), rng.uniform(0.2, 3)
    gained, until = book.worth(age, 10**6, lose, rate)
    wanted, best = by_steps(book, age, 10**6, lose, rate)
    assert gained == pytest.approx(wanted, abs=0.02 * lose)
    assert until == pytest.approx(best, abs=1.5) or abs(gained - wanted) < 0.02 * lose


def test_the_newest_absences_count() -> None:
    book = seen(*[1000] * 8, window=8)
    for i in range(8):
        book.left(f"new{i}", 0)
        book.back(f"new{i}", 10)
    assert book.gaps == [10] * 8
    for i in range(9):
        book.left(f"away{i}", 0)
    assert book.gaps == [] and list(book.away) == [f"away{i}" for i in range(1, 9)]


def test_the_last_values_of_a_kind() -> None:
    recent = Recent(3)
    for value in (5, 1, 4, 2):
        recent.add(value)
    assert recent.values == [1, 2, 4]
