"""What counts as an iteration of a backend whose iterations are uneven."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastserve.profiler.load import Meter


def committed(meter: Meter, ms: float, due: int, extra: list[int], *, tokens: int = 0, drafts: int = 0) -> None:
    """An iteration in which so many are due a token; extra: of those that get another number, the difference."""
    job = SimpleNamespace()
    prefill = [(job, tokens)] if tokens else []
    plan: Any = SimpleNamespace(
        prefill=prefill, first=lambda _: 0, due=[job] * due, batch=due - len(prefill), context=100 * due, now=7 * 10**9
    )
    outcome: Any = SimpleNamespace(
        service=round(ms * 1e6), extra=[(job, delta) for delta in extra], drafts=[(job, drafts, 0)] if drafts else []
    )
    meter.planned(plan, 0)
    meter.committed(plan, outcome, (), 0)


def noted(meter: Meter) -> list[tuple[int, int, float]]:
    return [(one.batch, one.tokens, pytest.approx(one.ms)) for one in meter.iterations()]


def test_even_ones_are_as_they_are() -> None:
    for uneven in (False, True):
        meter = Meter(uneven)
        committed(meter, 5, 3, [])
        committed(meter, 9, 4, [], tokens=16)
        assert noted(meter) == [(3, 0, 5), (3, 16, 9)]


def test_several_in_which_some_get_none_are_one() -> None:
    meter = Meter(uneven=True)
    committed(meter, 4, 4, [-1, -1, -1])
    committed(meter, 3, 4, [-1, -1])
    assert noted(meter) == []
    committed(meter, 2, 4, [-1, -1, -1])
    assert noted(meter) == [(4, 0, 9)]


def test_a_prefill_lasts_until_its_first_token() -> None:
    meter = Meter(uneven=True)
    committed(meter, 1, 1, [-1], tokens=64)
    committed(meter, 20, 1, [-1])
    committed(meter, 15, 1, [])
    assert noted(meter) == [(0, 64, 36)]


def test_one_in_which_each_gets_several_is_so_many() -> None:
    meter = Meter(uneven=True)
    committed(meter, 12, 2, [2, 2])
    assert noted(meter) == [(2, 0, 4)] * 3


def test_guesses_that_came_true_are_one_iteration() -> None:
    meter = Meter(uneven=True)
    committed(meter, 12, 2, [2, 2], drafts=5)
    assert noted(meter) == [(2, 0, 12)]


def test_who_leaves_is_not_waited_for() -> None:
    meter = Meter(uneven=True)
    committed(meter, 4, 4, [-1, -1, -1])
    committed(meter, 4, 1, [])
    assert noted(meter) == [(4, 0, 8)]
