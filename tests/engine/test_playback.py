"""A trace on a live engine: what its policy is told, and what it is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve import predictors
from fastserve.engine import Engine
from fastserve.engine.playback import play, play_sessions
from fastserve.policies.shortest import Srpt
from fastserve.sched.job import Job
from fastserve.workload import Trace, synthesise
from sim import replay

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


def talks() -> Trace:
    """Six conversations of four turns that begin alike; each repeats what was said."""
    rows = [(turn, talk) for turn in range(4) for talk in range(6)]
    prompt = [100 + 50 * turn for turn, _ in rows]
    return Trace(
        arrival=np.array([i * 30_000_000 for i in range(len(rows))], np.int64), prompt=np.array(prompt, np.int64),
        output=np.full(len(rows), 20, np.int64), name="talks", source="made here", block_size=16,
        program=[f"p{talk}" for _, talk in rows],
        hash_ids=[
            [i if i < 3 else 100 * (talk + 1) + i for i in range(n // 16)]
            for (_, talk), n in zip(rows, prompt, strict=True)
        ],
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["fcfs", "mlfq"])
def test_hits_are_those_of_the_simulator(policy: str) -> None:
    """On a modelled body, and in a pool where units go: every column that counts is the same."""
    settings: dict[str, Any] = {"max_batch": 3, "kv_tokens": 800, "host_tokens": 1600}
    with Engine.scripted(policy=policy, latency="opt-13b-a100", **settings) as engine:
        lived = play(engine, talks())
    run = replay(talks(), policy, latency="opt-13b-a100", processes=1, **settings).runs[0]
    assert 0.2 < run.summary["hit_rate"] < 0.95 * run.summary["hit_rate_unlimited"]
    for column in ("cached_tokens", "preemptions", "output_tokens", "program"):
        assert lived[column].tolist() == run.records[column].tolist(), column
    assert lived["jct_from_arrival"].tolist() == pytest.approx(run.records["jct_from_arrival"].tolist())


def test_clients_priorities_and_objectives_are_the_trace_s_and_so_are_classes_in_its_records() -> None:
    trace = synthesise(
        20, rate=5.0, lengths="fixed:12", priorities="0:0.5/3:0.5", clients="zipf:n=3,s=1",
        classes="chat:0.5:ttft=1s,tpot=0.1s/batch:0.5:e2e=60s", seed=2,
    )  # fmt: skip
    with Engine.scripted(policy="priority", max_batch=2, kv_tokens=512) as engine:
        lived = play(engine, trace)
    run = replay(trace, "priority", processes=1).runs[0]
    assert trace.slo_class is not None and lived["slo_class"].tolist() == trace.slo_class
    for column in ("client", "priority", "slo_class", "ttft_slo", "tpot_slo", "e2e_slo"):
        np.testing.assert_array_equal(lived[column], run.records[column])


def test_a_model_finds_what_is_alike_in_prompts() -> None:
    """Its answers are its own, so a turn finds the prompt before it: with room for all, the whole units of that."""
    pytest.importorskip("torch")
    trace = replace(talks(), after=[(i - 6,) if i >= 6 else () for i in range(24)], think=np.zeros(24, np.int64))
    with Engine.from_pretrained("embedded", policy="fcfs", latency="opt-13b-a100", kv_tokens=8192) as engine:
        lived = play_sessions(engine, trace, recorded=True).records
    cached = lived["cached_tokens"].tolist()
    assert cached[6:] == [(100 + 50 * turn) // 16 * 16 for turn in range(3) for _ in range(6)]
