"""Every job of a trace is completed, rejected, truncated, cancelled or unfinished, simulated and live alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.playback import play
from fastserve.metrics.finish import OUTCOMES
from fastserve.metrics.summary import Summary, summarise
from fastserve.sched.job import Job
from fastserve.workload import Trace
from sim import replay
from sim.__main__ import main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def made(prompts: list[int], outputs: list[int], gap_s: float) -> Trace:
    arrival = np.arange(len(prompts), dtype=np.int64) * round(gap_s * 1e9)
    return Trace("made", "here", arrival, np.array(prompts), np.array(outputs))


def total(summary: Summary) -> int:
    return sum(int(summary[outcome] or 0) for outcome in OUTCOMES)


def test_outputs_longer_than_the_pool_are_truncated_and_told(
    tmp_path: Path, unit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty of 2,000 tokens, one every 100 s, one slot: alone they take 200 s each, so 1,150 s in the mean."""
    rows = [json.dumps({"arrival_s": 100.0 * i, "prompt_tokens": 16, "output_tokens": 2000}) for i in range(20)]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(rows))
    common = [str(path), "--latency", unit, "--max-batch", "1", "--host-tokens", "0", "--policy", "fcfs"]
    assert main([*common, "--kv-tokens", "512"]) == 0
    text = capsys.readouterr().out
    assert "fcfs: 20 truncated of 20 jobs" in text and "truncated jobs outgrew the KV pool" in text
    assert main([*common, "--kv-tokens", "512", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["summary"]["completed"], run["summary"]["truncated"], run["summary"]["mean_jct_s"]) == (0, 20, None)
    assert run["summary"]["throughput_rps"] == 0
    assert main([*common, "--kv-tokens", "4096", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["summary"]["completed"], run["summary"]["truncated"]) == (20, 0)
    assert run["summary"]["mean_jct_s"] == pytest.approx(1150)


@pytest.mark.parametrize("policy", ["fcfs", "mlfq", "srpt"])
@pytest.mark.parametrize("batching", ["chunked", "static"])
@pytest.mark.parametrize("backlog", [None, 8])
def test_the_outcomes_sum_to_the_trace(unit: str, policy: str, batching: str, backlog: int | None) -> None:
    rng = np.random.default_rng(5)
    trace = made(rng.integers(1, 90, 40).tolist(), rng.integers(1, 90, 40).tolist(), 0.3)
    result = replay(
        trace, policy, latency=unit, kv_tokens=80, host_tokens=64, max_batch=2, batching=batching, max_backlog=backlog
    )
    (run,) = result.runs
    found = run.summary
    assert total(found) == found["n"] == len(trace)
    assert found["rejected"] and found["truncated"] and (found["completed"] or backlog is not None)
    assert bool(found["unfinished"]) == (backlog is not None)
    assert found["not_arrived"] == len(trace) - len(run.records["id"])
    cut = run.records["finish"] == "truncated"
    assert np.isnan(run.records["jct_from_arrival"][cut]).all() and np.isfinite(run.records["end"][cut]).all()


def test_a_live_engine_truncates_the_same_jobs_and_its_outcomes_sum_too() -> None:
    prompts, outputs = [20, 40, 8, 60], [50, 10, 80, 4]
    options: dict[str, Any] = {"kv_tokens": 64, "max_batch": 2}
    with Engine.scripted(policy="fcfs", keep_records=None, **options) as engine:
        records = play(engine, made(prompts, outputs, 0.0))
    expected = ["truncated", "stop", "truncated", "stop"]  # 70, 50, 88 and 64 tokens in a pool of 64
    assert records["finish"].tolist() == expected
    (run,) = replay(made(prompts, outputs, 0.0), "fcfs", host_tokens=0, **options).runs
    assert run.records["finish"].tolist() == expected
    assert run.records["output_tokens"].tolist() == records["output_tokens"].tolist()
    live = summarise(records, horizon_s=float(records["end"].max()))
    for outcome in OUTCOMES:
        assert live[outcome] == run.summary[outcome]


def test_cancelled_timed_out_and_failed_requests_of_an_engine_are_counted() -> None:
    def fail(job: Job, token: int) -> None:
        if job.id == 3:
            raise ValueError("as asked")

    params = SamplingParams(max_tokens=30, ignore_eos=True)
    with Engine.scripted(kv_tokens=64, max_batch=4, realtime=1.0, fail=fail) as engine:
        handles = [
            engine.submit("a", params),
            engine.submit("a", params, timeout_s=0.001),
            engine.submit("a" * 50, params),
            engine.submit("a", params),
            engine.submit("a", params),
        ]
        handles[4].cancel()
        words = [handle.result(60).finish_reason for handle in handles]
        found = summarise(engine.records(), horizon_s=1e9)
    assert words == ["length", "timeout", "truncated", "error", "cancelled"]
    assert (found["completed"], found["truncated"], found["cancelled"], total(found)) == (1, 3, 1, 5)
    assert not math.isnan(found["mean_jct_s"] or math.nan)
