"""Every result names every setting of its policies, and what they derive from them on the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sim
from fastserve.cli import ab
from fastserve.compare.compare import compare
from fastserve.compare.offline import EngineBody
from fastserve.engine import Engine
from fastserve.launch import Body
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from fastserve.workload import read_trace
from sim.__main__ import main

JOBS = [10, 2, 1]
"""Output tokens of three jobs with one prompt token each, that come together."""


class Weighed(Policy):
    def __init__(self, load: int = 3, name: str | None = None) -> None:
        self.load = load

    def rank(self, job: Job) -> int:
        return job.prompt * self.load


@pytest.fixture
def case(tmp_path: Path) -> list[str]:
    """Three jobs on a machine where each iteration takes a second and nothing is short."""
    trace, latency = tmp_path / "three.jsonl", tmp_path / "second.json"
    trace.write_text("".join(f'{{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": {n}}}\n' for n in JOBS))
    latency.write_text('{"kind": "linear", "name": "second", "prefill_ms": 1000, "decode_ms": 1000}')
    return [str(trace), "--latency", str(latency), "--max-batch", "1", "--visit", "0"]


def test_three_jobs_by_hand(case: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Quanta of 1, 2, 4, 8 and 16 s, the last of which covers a prefill and nine decodes. Each has one iteration in
    Q1 (0 to 3 s: the third ends at 3). Q2: job 0 until 5, job 1 ends at 6. Job 0 ends at 13.
    """
    arguments = [*case, "--policy", "mlfq", "--set", "alpha=0", "--out", str(tmp_path / "out"), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)["runs"][0]
    assert found["summary"]["mean_jct_s"] == pytest.approx(22 / 3)
    assert found["settings"] == {
        "q1": 0.0, "quanta": "time", "ratio": 2.0, "levels": 0, "eta": 1, "demote_to": "eta", "strict": False,
        "carry": False, "reinsert": "back", "alpha": 0, "check": 0, "promote_to": "back", "reset": True,
        "eviction": "enst", "derived": {"levels": 5, "quanta": [1, 2, 4, 8, 16]},
    }  # fmt: skip
    kept = json.loads((tmp_path / "out" / "run.json").read_text())
    assert kept["policies"] == {"mlfq": found["settings"]}


@pytest.mark.parametrize(
    ("knobs", "ends", "levels"),
    [({"levels": "prefill"}, [5, 3, 13], 1), ({"levels": 1}, [5, 3, 13], 1), ({"levels": 2}, [6, 3, 13], 2)],
)
def test_other_numbers_of_levels(case: list[str], knobs: dict[str, Any], ends: list[float], levels: int) -> None:
    settings = {"latency": case[2], "max_batch": 1, "visit": 0}
    run = sim.replay(case[0], PolicySpec("mlfq", {"alpha": 0} | knobs), **settings).runs[0]
    assert sorted(run.records["jct_from_arrival"].tolist()) == pytest.approx(sorted(ends))
    assert run.settings["derived"]["levels"] == levels


def test_the_table_names_them(case: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["--policy", "fcfs", "--policy", "las", "--policy", "sj-mlfq", "--set", "preset=artifact"]
    assert main([*case, *rows, "--policy", f"{__name__}:Weighed", "--show", "load"]) == 0
    text = capsys.readouterr().out.replace("\n  ", " ")
    assert "las: quantum=0; on this machine: quantum 1" in text
    assert "sj-mlfq: preset=artifact, q1=0.01, ratio=2, levels=unbounded, eta=1, demote_to=eta, strict=yes" in text
    assert "on this machine: levels 48, quanta 0.01, 0.02, 0.04, ..., " in text
    assert f"{__name__}:Weighed: load=3, name=none" in text
    row = next(line for line in text.splitlines() if line.startswith(f"{__name__}:Weighed  "))
    assert row.split()[-1] == "-", "a knob called load is not the load of the run"


def test_levels_that_depend_on_the_seed_are_all_named() -> None:
    pairs = [{"levels": 5, "quanta": [1, 2]}, {"levels": 6, "quanta": [1, 2, 4]}, {"levels": 5, "quanta": [1, 2]}]
    runs = sim.replay("traces/azure-conv-like.jsonl", "mlfq", num_requests=20, seeds=3).runs
    for run, derived in zip(runs, pairs, strict=True):
        run.settings["derived"] = derived
    text = " ".join(str(sim.Result({}, runs, 3)).split())
    assert "on this machine: levels 5 or 6, quanta 1, 2 or 1, 2, 4" in text


def test_levels_are_the_same_live_and_simulated() -> None:
    """A context of 2048 tokens, which the preset's model has too: the pool is larger."""
    with Engine.scripted(policy="sj-mlfq", latency="opt-13b-a100", max_model_len=2048) as engine:
        live = engine.settings["derived"]
    (run,) = sim.replay("traces/azure-conv-like.jsonl", "sj-mlfq", latency="opt-13b-a100", num_requests=3).runs
    assert run.settings["derived"] == live
    (run,) = sim.replay("traces/azure-conv-like.jsonl", "sj-mlfq", kv_tokens=256, num_requests=3).runs
    with Engine.scripted(policy="sj-mlfq", max_model_len=2048, kv_tokens=256) as engine:
        assert engine.settings["derived"] == run.settings["derived"] != live


def test_a_live_comparison_names_them(case: list[str]) -> None:
    specs = [PolicySpec("fcfs"), PolicySpec("mlfq", {"alpha": 0}), PolicySpec(Weighed, {"load": 9})]
    body = EngineBody(Body(backend="scripted", latency=case[2], max_model_len=16), {"max_batch": 1, "visit": 0})
    found = compare(body, read_trace(case[0]), specs, rounds=1)
    assert found.document()["policies"]["Weighed"] == {"load": 9, "name": None}
    mlfq = found.document()["policies"]["mlfq"]
    assert mlfq["alpha"] == 0 and mlfq["eviction"] == "enst" and mlfq["derived"]["levels"] == 5
    assert "policy" not in found.rounds[0].notes
    text = ab.text(found)
    assert (
        "mlfq: q1=0, ratio=2, levels=0" in text
        and "on this machine: levels 5, quanta 1, 2, 4, 8, 16" in text.replace("\n  ", " ")
    )
    assert found.values("mlfq", "mean_jct_s") == pytest.approx([22 / 3], rel=1e-2)
