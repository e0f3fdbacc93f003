"""Rates and the mark of saturation as the command line shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.workload import Trace
from sim import replay
from sim.__main__ import main

BUNDLED = str(Path(__file__).parents[2] / "traces" / "azure-conv-like.jsonl")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--policy", "fcfs", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    found: dict[str, Any] = run["summary"]
    return found


def test_a_burst_has_the_throughput_of_the_machine_and_no_more_goodput(
    tmp_path: Path, unit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty jobs of 1 s within a second, each with all the time in the world: one job/s."""
    rows = [
        {"arrival_s": i / 49, "prompt_tokens": 1, "output_tokens": 10, "slo": {"e2e_ms": 100_000}} for i in range(50)
    ]
    path = tmp_path / "burst.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = summary(capsys, str(path), "--latency", unit, "--max-batch", "1")
    assert found["goodput_rps"] == found["throughput_rps"] == found["offered_rps"] == pytest.approx(1.0)
    assert found["rate_window_s"] == pytest.approx(50) and found["arrival_rps"] == pytest.approx(49)


def test_a_rate_far_above_capacity_has_a_throughput_and_the_table_names_the_window(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flood = [BUNDLED, "--num-requests", "200", "--rate", "5400"]
    found = summary(capsys, *flood)
    assert found["throughput_rps"] == pytest.approx(200 / found["makespan_s"]) and found["throughput_rps"] > 2
    assert found["saturated"] is True
    assert main([*flood, "--policy", "fcfs"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "done req/s: completed jobs over the time from the first arrival to the last end (fcfs" in page
    assert "of it after the last arrival)" in page
    assert main([BUNDLED, "--num-requests", "100", "--rate", "0.5", "--warmup", "20", "--policy", "fcfs"]) == 0
    assert "from the end of the warmup to the last end\n" in capsys.readouterr().out


@pytest.mark.parametrize(("load", "marked"), [(0.98, False), (1.04, True)])
def test_a_long_run_just_above_capacity_is_marked_and_one_just_below_is_not(
    unit: str, load: float, marked: bool
) -> None:
    """M/D/1: 20,000 jobs of 1 s, one at a time."""
    n = 20_000
    arrival = np.cumsum(np.random.default_rng(3).exponential(1e9, n)).astype(np.int64)
    trace = Trace("md1", "", arrival - arrival[0], np.ones(n, np.int64), np.full(n, 10, np.int64))
    (run,) = replay(trace, "fcfs", latency=unit, max_batch=1, load=load, processes=1, progress=False).runs
    assert run.summary["saturated"] is marked


def test_a_warmup_that_no_job_comes_after_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([BUNDLED, "--num-requests", "5", "--rate", "1", "--warmup", "600", "--policy", "fcfs"]) == 0
    assert "fcfs: no job came after the warmup, so that there is nothing to take means of" in capsys.readouterr().out
