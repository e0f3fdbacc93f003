"""Controller: the number of guesses falls with the batch and the acceptance, and what it costs to look is bounded."""

from __future__ import annotations

import random

import pytest

from fastserve.hardware import DecodePiece, LatencyModel, LinearLatency, PrefillFit, load_hardware
from fastserve.speculation.acceptance import Acceptance, Draws
from fastserve.speculation.control import MARGIN, SEARCH, Controller, step_ps

WAITS = load_hardware("roofline:llama-3-8b/a100-80g").latency
"""It waits for its weights up to some 150 tokens, and computes beyond."""
COMPUTES = LinearLatency(PrefillFit(1.0, 1.0, 0.0), [DecodePiece(1, 1.0, 1.0, 0.0)])
"""A token costs the same wherever it stands."""


def fed(latency: LatencyModel, most: int, p: float, **more: LatencyModel) -> Controller:
    controller = Controller(latency, most, **more)
    draws = Draws(Acceptance(p), 1)
    at = 0
    for _ in range(300):
        accepted = draws.accepted(0, at, most)
        at += accepted + 1
        controller.saw(most, accepted)
    return controller


def cost(latency: LatencyModel, k: int, p: float, batch: int, context: int) -> float:
    """ps a token."""
    return step_ps(latency, batch, context, k * batch) / Acceptance(p).expected(k)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("batch", [1, 8, 64, 300])
def test_it_costs_hardly_more_a_token_than_the_best_number(p: float, batch: int) -> None:
    controller = fed(WAITS, 6, p)
    assert controller.acceptance == pytest.approx(p, abs=0.13)
    context = batch * 500
    costs = [cost(WAITS, k, controller.acceptance, batch, context) for k in range(7)]
    assert costs[controller.k(batch, context)] <= min(costs) * (1 + 1.5 * MARGIN)


def test_it_falls_with_the_batch_and_is_most_where_an_iteration_waits() -> None:
    controller = fed(WAITS, 6, 0.8)
    found = [controller.k(batch, batch * 100) for batch in (1, 4, 16, 64, 128, 256, 512)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 6 and found[-1] == 0


def test_where_each_token_costs_alike_nothing_is_guessed_though_nearly_all_would_be_right() -> None:
    controller = fed(COMPUTES, 4, 0.99)
    assert {controller.k(64, 6400) for _ in range(50)} <= {0, 1}
    assert controller.k(64, 6400) == 0


def test_what_it_looks_for_costs_a_bounded_share_of_the_time() -> None:
    controller = fed(COMPUTES, 4, 0.0)
    plain = spent = looks = 0
    for _ in range(20_000):
        k = controller.k(8, 800)
        ps = step_ps(COMPUTES, 8, 800, 8 * k)
        plain += COMPUTES.iteration_ps(8, 800, ())
        spent += ps
        if k:
            looks += 1
            for _ in range(8):
                controller.saw(k, 0)
    assert looks > 50
    assert spent / plain - 1 <= SEARCH * 1.01


@pytest.mark.parametrize("batch", [1, 8])
def test_it_finds_out_again_that_guesses_are_right(batch: int) -> None:
    between = LinearLatency(PrefillFit(8.0, 0.5, 0.0), [DecodePiece(1, 8.0, 1.0, 0.0)])
    controller = fed(between, 4, 0.0)
    rng = random.Random(0)
    ks = []
    for step in range(6000):
        k = controller.k(batch, batch * 300)
        ks.append(k)
        p = 0.9 if 2000 <= step < 4000 else 0.02
        for _ in range(batch if k else 0):
            right = next((i for i in range(k) if rng.random() >= p), k)
            controller.saw(k, right)
    assert sum(ks[1500:2000]) / 500 < 0.1, "nothing is to be won: no more than it takes to look"
    assert sum(ks[3000:4000]) / 1000 > 2.5
    assert sum(ks[5000:]) / 1000 < 0.1


def test_a_model_that_guesses_must_be_worth_its_own_time() -> None:
    assert fed(WAITS, 4, 0.8).k(1, 100) == 4
    dear = fed(WAITS, 4, 0.8, draft=WAITS)
    assert {dear.k(1, 100) for _ in range(20)} == {0}


def test_measured_times_correct_the_model() -> None:
    controller = fed(WAITS, 4, 0.9)
    assert controller.k(2, 200) == 4
    for _ in range(40):
        controller.timed(2, 200, 0, WAITS.iteration_ps(2, 200, ()) // 1000)
        controller.timed(2, 200, 8, 6 * step_ps(WAITS, 2, 200, 8) // 1000)
    assert {controller.k(2, 200) for _ in range(20)} == {0}
    assert controller.k(16, 1600) == 4, "nothing was measured there"


@pytest.mark.parametrize("at", [0, 1, 500])
def test_a_machine_that_stood_still_during_an_iteration_does_not_end_guessing(at: int) -> None:
    """A pause of many iterations' length, be it in the first one that was timed."""
    controller = fed(WAITS, 4, 0.9)
    ks = []
    for i in range(1000):
        ks.append(k := controller.k(2, 200))
        took = step_ps(WAITS, 2, 200, 2 * k) // 1000
        controller.timed(2, 200, 2 * k, took * 500 if i == at else took)
        controller.saw(max(k, 1), max(k, 1))
    assert ks[at] and ks[at + 50 :].count(0) <= 1000 * SEARCH * 1.1


def test_where_times_are_told_an_iteration_without_guesses_is_made_now_and_then() -> None:
    controller = fed(WAITS, 4, 0.9)
    controller.timed(1, 100, 4, 10**7)
    ks = [controller.k(1, 100) for _ in range(1000)]
    assert set(ks) == {0, 4} and 0 < ks.count(0) <= 1000 * SEARCH * 1.1


def test_who_finds_no_guess_is_no_cost_and_no_gain() -> None:
    controller = fed(COMPUTES, 4, 0.6)
    for _ in range(200):
        controller.saw(0, 0)
        controller.k(8, 800)
    assert controller.found < 0.25 and controller.acceptance == pytest.approx(0.6, abs=0.13)


def test_none_are_made_where_none_are_wanted() -> None:
    assert Controller(WAITS, 0).k(1, 100) == 0
    assert Controller(WAITS, 4).k(0, 0) == 0
