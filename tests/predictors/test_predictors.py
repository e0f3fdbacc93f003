"""Output-length predictors: what they say, that it is the same for every policy, and how they are named."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path

import pytest

from fastserve.predictors import Constant, FromTrace, Lognormal, Oracle, check, make
from fastserve.sched.job import Job


def guesses(predictor: Lognormal, ids: list[int], truth: int = 1000) -> dict[int, int]:
    return {id: predictor.predict(Job(id, 0, 10), truth) for id in ids}


def test_oracle_knows() -> None:
    assert [Oracle().predict(Job(0, 0, 10), truth) for truth in (1, 77)] == [1, 77]


def test_constant_does_not() -> None:
    assert [Constant(9).predict(Job(0, 0, 10), truth) for truth in (1, 77)] == [9, 9]


def test_lognormal_depends_on_the_seed_and_the_job_alone() -> None:
    """Neither the order of the questions, nor their number, nor anybody else's randomness changes a guess."""
    ids = list(range(200))
    once = guesses(Lognormal(0.5, seed=3), ids)
    shuffled = ids.copy()
    random.Random(0).shuffle(shuffled)
    again = Lognormal(0.5, seed=3)
    guesses(again, shuffled)
    assert guesses(again, shuffled) == once
    assert len(set(once.values())) > 150
    other = guesses(Lognormal(0.5, seed=4), ids)
    assert sum(other[id] == once[id] for id in ids) < 20


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.5])
def test_lognormal_has_its_sigma(sigma: float) -> None:
    """log(guess / truth) is normal with mean 0 and deviation sigma; 5,000 draws, five standard errors."""
    n = 5000
    truth = 10**9
    errors = [math.log(guess / truth) for guess in guesses(Lognormal(sigma), list(range(n)), truth).values()]
    assert abs(statistics.fmean(errors)) < 5 * sigma / math.sqrt(n)
    assert statistics.stdev(errors) == pytest.approx(sigma, rel=5 / math.sqrt(2 * n))
    within = sum(abs(error) < sigma for error in errors) / n
    assert within == pytest.approx(0.6827, abs=5 * math.sqrt(0.6827 * 0.3173 / n))


def test_lognormal_without_error_is_the_oracle_and_never_below_one() -> None:
    assert set(guesses(Lognormal(0.0), list(range(20)), 321).values()) == {321}
    assert min(guesses(Lognormal(3.0), list(range(300)), 2).values()) == 1


def test_specs() -> None:
    assert make("none") is None
    assert isinstance(make("oracle"), Oracle)
    noisy = make("lognormal:0.25", seed=7)
    assert isinstance(noisy, Lognormal) and (noisy.sigma, noisy.seed) == (0.25, 7)
    default = make("lognormal")
    assert isinstance(default, Lognormal) and default.sigma == 0.5
    flat = make("constant:40")
    assert isinstance(flat, Constant) and flat.tokens == 40
    plain = make("constant")
    assert isinstance(plain, Constant) and plain.tokens == 256


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("psychic", "no predictor 'psychic'; there are oracle, lognormal:SIGMA, constant:TOKENS, trace and none"),
        ("oracle:1", "no predictor 'oracle:1'"),
        ("none:1", "no predictor 'none:1'"),
        ("lognormal:-1", "predictor 'lognormal:-1': lognormal: sigma=-1.0 must not be negative"),
        ("lognormal:x", "predictor 'lognormal:x': SIGMA='x' must be a number"),
        ("constant:0", "predictor 'constant:0': constant: 0 tokens; guess at least 1"),
        ("constant:1.5", "predictor 'constant:1.5': TOKENS='1.5' must be a whole number"),
        ("", "no predictor ''"),
    ],
)
def test_wrong_specs(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(spec)


def test_the_guesses_of_the_trace() -> None:
    told = make("trace", guesses=[5, 7, 9])
    assert isinstance(told, FromTrace)
    assert [told.predict(Job(id, 0, 10), 1000) for id in (2, 0)] == [9, 5]
    assert check("trace") and not check("none")
    with pytest.raises(ValueError, match="predictor 'trace': the trace has no column of guesses"):
        make("trace")
    with pytest.raises(ValueError, match="predictor 'trace': 2 of the 3 requests have no guess"):
        make("trace", guesses=[0, 7, 0])


OWN = """
class Half:
    def predict(self, job, truth):
        return max(1, truth // 2)

class Seeded:
    def __init__(self, seed=0):
        self.seed = seed

    def predict(self, job, truth):
        return 1 + self.seed

class Wrong:
    def predict(self, job, truth):
        return 1.5

class Raises:
    def predict(self, job, truth):
        return {}["guess"]

class Needs:
    def __init__(self, what):
        pass

    def predict(self, job, truth):
        return 1

class No:
    pass
"""


def test_a_predictor_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "foresight.py"
    file.write_text(OWN)
    job = Job(3, 0, 10)
    half, seeded = make(f"{file}:Half"), make(f"{file}:Seeded", seed=6)
    assert half is not None and half.predict(job, 11) == 5
    assert seeded is not None and seeded.predict(job, 11) == 7
    assert check(f"{file}:Half")
    for name, words in (
        ("Wrong", "guesses 1.5 for job 3: give a whole"),
        ("Raises", "failed at job 3: KeyError: 'guess'"),
    ):
        made = make(f"{file}:{name}")
        assert made is not None
        with pytest.raises(ValueError, match=words):
            made.predict(job, 11)
    for name, words in (
        ("Needs", "cannot be made: TypeError"),
        ("No", "No has no method predict"),
        ("Absent", "Absent does not exist"),
    ):
        with pytest.raises(ValueError, match=words):
            make(f"{file}:{name}")
    with pytest.raises(ValueError, match="no module 'nowhere_to_be_found'"):
        make("nowhere_to_be_found:Mine")
