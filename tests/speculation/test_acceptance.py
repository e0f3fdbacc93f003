"""Acceptance: what is expected, fitted and drawn; the draws depend on the seed, the job and the token alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.speculation.acceptance import Acceptance, Draws, fitted, read_acceptance


@pytest.mark.parametrize(("p", "k", "tokens"), [(0.0, 4, 1.0), (1.0, 4, 5.0), (0.5, 3, 1.875), (0.7, 0, 1.0)])
def test_expected_tokens(p: float, k: int, tokens: float) -> None:
    assert Acceptance(p).expected(k) == pytest.approx(tokens)
    if p < 1:
        assert Acceptance(p).expected(k) == pytest.approx((1 - p ** (k + 1)) / (1 - p))


def test_a_fit_counts_no_guess_behind_the_first_wrong_one() -> None:
    found = fitted([(4, 4), (4, 1), (0, 0), (2, 0)])
    assert (found.p, found.found) == (5 / 7, 3 / 4)
    with pytest.raises(ValueError, match="nothing was guessed"):
        fitted([(0, 0)])


@pytest.mark.parametrize(("p", "share"), [(0.7, 1.0), (0.3, 0.6), (0.95, 0.2), (0.0, 1.0), (1.0, 0.5)])
def test_draws_are_as_likely_as_they_say(p: float, share: float) -> None:
    draws = Draws(Acceptance(p, share), seed=7)
    counts = []
    for job in range(400):
        at = 0
        while at < 100:
            drafted = draws.drafted(job, at, 4)
            accepted = draws.accepted(job, at, drafted)
            assert 0 <= accepted <= drafted in (0, 4)
            counts.append((drafted, accepted))
            at += accepted + 1
    found = fitted(counts)
    assert found.p == pytest.approx(p, abs=0.015)
    assert found.found == pytest.approx(share, abs=0.02)


@given(st.floats(0, 1), st.integers(0, 5), st.integers(0, 50), st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_however_many_are_asked_for_each_token_has_one_fate(p: float, seed: int, job: int, asks: list[int]) -> None:
    one, other = Draws(Acceptance(p), seed), Draws(Acceptance(p), seed)
    other.accepted(job + 1, 0, 3)  # others have draws of their own
    right = [other.accepted(job, at, 1) == 1 for at in range(sum(asks) + len(asks))]
    at = 0
    for ask in asks:
        accepted = one.accepted(job, at, ask)
        assert right[at : at + accepted] == [True] * accepted
        assert accepted == ask or not right[at + accepted]
        at += accepted + 1


def test_a_job_that_comes_again_draws_alike_and_another_seed_does_not() -> None:
    draws = Draws(Acceptance(0.5), 1)
    first = [draws.accepted(3, at, 8) for at in range(0, 90, 9)]
    draws.forget(3)
    assert [draws.accepted(3, at, 8) for at in range(0, 90, 9)] == first
    assert [Draws(Acceptance(0.5), 2).accepted(3, at, 8) for at in range(0, 90, 9)] != first


def test_long_rows_go_on() -> None:
    draws = Draws(Acceptance(0.99999), 0)
    lengths = [draws.accepted(job, 0, 10**6) for job in range(300)]
    assert 50_000 < sum(lengths) / 300 < 150_000
    assert Draws(Acceptance(1 - 2**-53), 0).accepted(0, 0, 10**5) == 10**5, "and end some time"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(Acceptance(0.625, 0.5, "there").to_json()))
    assert read_acceptance(path) == Acceptance(0.625, 0.5, "there")
    path.write_text('{"acceptance": 0.5}')
    assert read_acceptance(path) == Acceptance(0.5)
    for wrong in ("[]", "{", '{"found": 1}', '{"acceptance": null}'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="holds no acceptance: write one with"):
            read_acceptance(path)
    path.write_text('{"acceptance": 1.5}')
    with pytest.raises(ValueError, match=r"acceptance 1.5 must be a share, 0 to 1"):
        read_acceptance(path)


def test_a_fit_of_draws_is_the_acceptance_again() -> None:
    rng = random.Random(1)
    draws = Draws(Acceptance(0.8), 3)
    at = [0] * 50
    counts = []
    for _ in range(4000):
        job = rng.randrange(50)
        k = rng.randint(1, 6)
        accepted = draws.accepted(job, at[job], k)
        at[job] += accepted + 1
        counts.append((k, accepted))
    assert fitted(counts).p == pytest.approx(0.8, abs=0.01)


def test_a_deviation_that_cannot_be_is_refused() -> None:
    for spread in (-0.2, 0.6, float("nan")):
        with pytest.raises(ValueError, match="the deviation is 0 or more and below"):
            Acceptance(0.6, spread=spread)


def test_jobs_may_differ() -> None:
    draws = Draws(Acceptance(0.6, spread=0.25), 2)
    jobs = []
    for job in range(400):
        at = 0
        counts = []
        while at < 300:
            counts.append((8, draws.accepted(job, at, 8)))
            at += counts[-1][1] + 1
        jobs.append(fitted(counts).p)
    assert mean(jobs) == pytest.approx(0.6, abs=0.03)
    assert stdev(jobs) == pytest.approx(0.25, abs=0.03)
