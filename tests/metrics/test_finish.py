"""Every job of a run is in exactly one class."""

import numpy as np
import pytest

from fastserve.metrics.finish import OUTCOMES, is_outcome, outcome_of, truncations
from fastserve.metrics.summary import Slo, summarise
from tests.metrics.made import make_records

WORDS = {
    "stop": "completed", "length": "completed", "rejected": "rejected", "truncated": "truncated",
    "timeout": "truncated", "error": "truncated", "cancelled": "cancelled", "gone": "cancelled",
    "unfinished": "unfinished",
}  # fmt: skip


def test_each_word_is_in_one_class() -> None:
    finish = np.array(list(WORDS), "O")
    assert [outcome_of(word) for word in WORDS] == list(WORDS.values())
    assert np.sum([is_outcome(finish, outcome) for outcome in OUTCOMES], axis=0).tolist() == [1] * len(WORDS)
    assert not is_outcome(np.empty(0, "O"), "completed").any()
    assert truncations(finish) == {"truncated": 1, "timeout": 1, "error": 1}


def test_the_classes_sum_to_the_jobs() -> None:
    rng = np.random.default_rng(1)
    for n in (0, 1, 7, 60):
        words = rng.choice(list(WORDS), n)
        found = summarise(make_records(np.arange(n), np.ones(n), finish=words), horizon_s=100)
        assert sum(int(found[outcome] or 0) for outcome in OUTCOMES) == found["n"] == n


@pytest.mark.parametrize("word", ["truncated", "timeout", "error"])
def test_a_truncated_job_is_outside_all_times_and_misses_its_objective(word: str) -> None:
    records = make_records([0, 1, 2], [4, 0.1, 6], finish=["stop", word, "length"])
    found = summarise(records, horizon_s=10, slo=Slo(e2e_s=5))
    assert (found["completed"], found["truncated"]) == (2, 1)
    assert found["mean_jct_s"] == 5 and found["mean_ttft_s"] == 2.5 and found["mean_slowdown"] == 5
    assert found["slo_attainment"] == pytest.approx(1 / 3)
    without = summarise(make_records([0, 2], [4, 6]), horizon_s=10)
    assert {key: found[key] for key in found if "jct" in key or "tpot" in key} == {
        key: without[key] for key in without if "jct" in key or "tpot" in key
    }
