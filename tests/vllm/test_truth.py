"""What a flight log of vLLM tells: every plan again, a twin that knows arrivals and step times alone, the machine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from fastserve.flightlog.replay import replay_log
from fastserve.flightlog.twin import twin_of
from fastserve.hardware import LinearLatency
from fastserve.profiler.from_log import iterations_of, profile_of
from tests.vllm.api import Api
from tests.vllm.cases import HERE, NAMED, Case, draw
from tests.vllm.drive import serve
from tests.vllm.ours import PROFILE

ROOMY = Case(slots=4, rows=64, blocks=2000, budget=2048, requests=60, gap=20)
"""Nothing is short, and each step yields one token: vLLM does what a plan asks."""


@pytest.mark.parametrize("policy", ["fcfs", "srpt", "sjf", "las", "mlfq", "sj-mlfq", HERE + "Rotate"])
def test_who_has_seen_only_arrivals_and_step_times_makes_every_plan(api: Api, tmp_path: Path, policy: str) -> None:
    drive = serve(api, ROOMY.but(policy=policy, seed=3), tmp_path)
    report = twin_of(tmp_path / "flight.jsonl")
    assert report.difference is None and report.deviations == (), str(report)
    assert report.alike == report.plans > 100
    assert policy == "fcfs" or policy == "sjf" or drive.counts["parked"] > 0


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("prefill", {"budget": 24, "slots": 8, "gap": 2}),
        ("found", {"prefix": True, "cache": "off", "shared": 100}),
        ("pool resized", {"prefix": True, "cache": "off", "shared": 100, "blocks": 40}),
        ("lost", {"leave": "recompute", "policy": "srpt"}),
        ("ends told late", {"ahead": True, "policy": "sj-mlfq"}),
        ("uneven steps", {"drafts": 3}),
    ],
)
def test_a_twin_says_what_came_before_it_parted(api: Api, tmp_path: Path, why: str, changes: dict[str, object]) -> None:
    """Which of the ways in which vLLM does otherwise is named, and the replay is not troubled."""
    serve(api, ROOMY.but(**{"policy": "las", "seed": 5, **changes}), tmp_path)
    path = tmp_path / "flight.jsonl"
    assert replay_log(path).difference is None
    report = twin_of(path)
    assert why in {one.what for one in report.deviations}, str(report)
    assert report.explained, str(report)


def test_no_twin_parts_without_a_reason(api: Api, tmp_path: Path) -> None:
    rng = random.Random(11)
    for number in range(5):
        case = draw(rng, NAMED)
        folder = tmp_path / str(number)
        folder.mkdir()
        serve(api, case, folder)
        report = twin_of(folder / "flight.jsonl")
        assert report.explained, f"{case}: {report}"
        assert iterations_of(folder / "flight.jsonl")


@pytest.mark.parametrize("leave", ["park", "recompute"])
def test_the_made_up_machine_comes_back_from_the_log(api: Api, tmp_path: Path, leave: str) -> None:
    case = ROOMY.but(policy="srpt", leave=leave, budget=128, requests=200, gap=30, seed=2)
    serve(api, case, tmp_path)
    found = profile_of(tmp_path / "flight.jsonl")
    latency = found.hardware.latency
    assert isinstance(latency, LinearLatency)
    assert latency.prefill.ms_per_token == pytest.approx(PROFILE["prefill_ms_per_token"], rel=0.02)
    assert latency.iteration_ps(4, 400, ()) / 1e9 == pytest.approx(
        PROFILE["decode_ms"] + 4 * PROFILE["decode_ms_per_sequence"], rel=0.01
    )
    assert all(one.median < 0.02 and abs(one.bias) < 0.01 for one in found.residuals.values()), found.residuals
    assert found.hardware.memory.block_tokens == 16
    assert found.hardware.memory.device_blocks == case.blocks - 1


def test_each_of_several_engines_writes_files_of_its_own(api: Api, tmp_path: Path) -> None:
    import fastserve.vllm

    asked = {"flight_log": str(tmp_path / "flight.jsonl"), "records": str(tmp_path / "records.jsonl")}
    for engine in range(3):

        def make(vllm_config: Any, engine: int = engine, **more: Any) -> Any:
            vllm_config.parallel_config.data_parallel_index = engine
            return fastserve.vllm.scheduler(vllm_config=vllm_config, **more)

        try:
            api.make(ROOMY, {"fastserve": asked}, make).shutdown()
        finally:
            api.config(ROOMY).parallel_config.data_parallel_index = 0  # (the real one is shared)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "flight.1.jsonl", "flight.2.jsonl", "flight.jsonl", "records.1.jsonl", "records.2.jsonl", "records.jsonl",
    ]  # fmt: skip
    assert replay_log(tmp_path / "flight.2.jsonl").difference is None
