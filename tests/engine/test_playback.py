"""A trace on a live engine: what its policy is told, and what it is not."""

from pathlib import Path

import numpy as np

from fastserve import predictors
from fastserve.engine import Engine
from fastserve.engine.playback import play
from fastserve.policies.shortest import Srpt
from fastserve.sched.job import Job
from fastserve.workload import Trace

OUTPUTS = [3, 9, 5]


class Told(Srpt):
    """srpt that keeps what it was given to guess from."""

    def __init__(self) -> None:
        self.seen: list[tuple[float | None, int]] = []

    def arrive(self, job: Job) -> None:
        self.seen.append((job.guess, job.limit))
        super().arrive(job)


def told(predictor: str, guesses: list[int] | None = None) -> list[tuple[float | None, int]]:
    trace = Trace(
        arrival=np.array([0, 1000, 2000], dtype=np.int64),
        prompt=np.array([4, 4, 4], dtype=np.int64),
        output=np.array(OUTPUTS, dtype=np.int64),
        name="three",
        source="made here",
    )
    policy = Told()
    with Engine.scripted(policy=lambda: policy, predictor=predictor, max_batch=2, kv_tokens=256) as engine:
        records = play(engine, trace, predictor=None if guesses is None else predictors.make("trace", guesses=guesses))
    assert records["output_tokens"].tolist() == OUTPUTS
    return policy.seen


def test_guesses_are_the_truth_only_where_the_client_gives_them() -> None:
    assert told("client") == [(3, 9), (9, 9), (5, 9)]


def test_a_predictor_of_the_engine_s_own_is_not_told_the_truth() -> None:
    assert told("constant:7") == [(7, 9)] * 3


def test_guesses_of_the_trace_and_of_ones_own_class(tmp_path: Path) -> None:
    assert told("client", [8, 1, 2]) == [(8, 9), (1, 9), (2, 9)]
    (tmp_path / "foresight.py").write_text(
        "class Mine:\n    def predict(self, job, truth):\n        assert truth == 0\n        return 10 + job.id\n"
    )
    assert told(f"{tmp_path}/foresight.py:Mine") == [(10, 9), (11, 9), (12, 9)]
