"""--prefix-cache: where it is on by itself, what it finds, and that older results stand where it is off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastserve.flightlog.replay import replay_log
from fastserve.workload import Trace
from sim import replay
from sim.__main__ import main
from sim.prefix_cache import told
from sim.settings import Settings
from tests.sim.flight import flown

SMALL = Settings(kv_tokens=6000, host_tokens=6000, max_batch=8)


def conversations(programs: bool = True, ids: bool = True, turns: int = 6, gap: float = 20.0) -> Trace:
    """Ten conversations, each turn 128 tokens longer than the one before and its answer of 64; turns come in rounds."""
    rows = [(turn, talk) for turn in range(turns) for talk in range(10)]
    prompt = np.array([256 + 192 * turn for turn, _ in rows], np.int64)
    return Trace(
        "talks", "made", np.array([int((10 * turn + talk) * gap * 1e8) for turn, talk in rows], np.int64), prompt,
        np.full(len(rows), 65, np.int64),
        program=[f"p{talk}" for _, talk in rows] if programs else None,
        hash_ids=[[1000 * talk + i for i in range(n // 64)] for (_, talk), n in zip(rows, prompt.tolist(), strict=True)]
        if ids
        else None,
        block_size=64,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("programs", "ids", "asked", "on"),
    [
        (True, True, "auto", True),
        (False, True, "auto", False),
        (True, False, "auto", False),
        (False, True, "on", True),
        (True, True, "off", False),
    ],
)
def test_where_it_is_on(programs: bool, ids: bool, asked: str, on: bool) -> None:
    result = replay(conversations(programs, ids), "fcfs", settings=SMALL, prefix_cache=asked, processes=1)
    assert result.settings["prefix_cache"] == ("on" if on else "off")
    run = result.runs[0]
    assert bool(run.summary["cached_tokens"]) is bool(run.summary["hit_rate"]) is on
    assert (run.summary["hit_rate_unlimited"] is not None) is on
    assert ("prompt tokens found in the prefix cache: fcfs" in str(result)) is on


def test_a_trace_without_content_has_nothing_to_be_found() -> None:
    trace = conversations(ids=False)
    assert "nothing to be found: the trace has no block ids" in told(SMALL.with_(prefix_cache="on"), trace)
    run = replay(trace, "fcfs", settings=SMALL, prefix_cache="on", processes=1).runs[0]
    assert run.summary["hit_rate"] == 0


def test_a_turn_finds_its_conversation_the_answer_included() -> None:
    """With room for all and one turn after the other, all but what is new is found."""
    settings = SMALL.with_(kv_tokens="unlimited")
    run = replay(conversations(), "fcfs", settings=settings, processes=1).runs[0]
    prompt, cached = run.records["prompt_tokens"], run.records["cached_tokens"]
    assert (cached[:10] == 0).all()
    assert (cached[10:] == prompt[10:] - 128).all()  # of an answer of 65 tokens 64 have KV
    assert run.summary["hit_rate"] == pytest.approx(run.summary["hit_rate_unlimited"])
    assert (run.records["recomputed_tokens"] == 0).all()


def test_what_the_device_forgets_is_loaded_from_the_host() -> None:
    """With room for a few conversations on the device and for all on the host, as much is found as without a bound."""
    settings = SMALL.with_(kv_tokens=4000, host_prefix_tokens=40_000)
    here, there = (replay(conversations(), "fcfs", settings=settings.with_(host_prefix_tokens=room), processes=1)
                   for room in (0, 40_000))  # fmt: skip
    run = there.runs[0]
    assert run.summary["hit_rate"] == pytest.approx(run.summary["hit_rate_unlimited"])
    assert here.runs[0].summary["hit_rate"] < 0.5 * run.summary["hit_rate"]
    assert here.runs[0].summary["host_hit_rate"] == 0
    assert run.summary["host_hit_rate"] * run.records["prompt_tokens"].sum() == pytest.approx(
        run.records["cached_host_tokens"].sum()
    )
    assert (run.records["cached_host_tokens"] <= run.records["cached_tokens"]).all()
    assert run.records["swapped_in_bytes"].sum() == run.records["cached_host_tokens"].sum() * 819_200
    assert "; of these loaded from the host: fcfs 0." in " ".join(str(there).split())


def test_a_turn_takes_as_long_as_what_is_new() -> None:
    """Nobody else runs: the first turn costs its whole prefill, and a later one what comes after the found prefix."""
    settings = SMALL.with_(kv_tokens="unlimited", batching="mixed")
    latency = settings.hardware().latency
    records = replay(conversations(), "fcfs", settings=settings, processes=1).runs[0].records
    cached, prompt = records["cached_tokens"].tolist(), records["prompt_tokens"].tolist()
    for row in (0, 10, 50):
        alone = latency.iteration_ps(0, 0, [(cached[row], prompt[row] - cached[row])]) / 1e12
        assert records["ttft"][row] == pytest.approx(alone, abs=2e-9)


def test_off_nothing_changes() -> None:
    """To the bit what it is for a trace without block ids."""
    with_ids = replay(conversations(), ["fcfs", "sj-mlfq"], settings=SMALL, prefix_cache="off", processes=1)
    without = replay(conversations(ids=False), ["fcfs", "sj-mlfq"], settings=SMALL, processes=1)
    for one, other in zip(with_ids.runs, without.runs, strict=True):
        for column, values in one.records.items():
            assert np.array_equal(values, other.records[column], equal_nan=values.dtype.kind == "f"), column


@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
@pytest.mark.parametrize("policy", ["fcfs", "srpt", "sj-mlfq"])
@pytest.mark.parametrize("tier", [0, 4000])
def test_its_flight_log_is_reproduced(policy: str, residency: str, tier: int, tmp_path: Path) -> None:
    settings = SMALL.with_(residency=residency, kv_tokens=4000, host_tokens=3000, host_prefix_tokens=tier)
    trace = conversations(gap=0.5)
    path = tmp_path / "log"
    _, events = flown(trace, policy, settings, path)
    plans = [event["plan"] for event in events if event.get("event") == "plan"]
    assert any(plan["found"] for plan in plans) and any(plan["evict"] for plan in plans)
    for name in ("store", "forget"):
        assert any(plan.get(name) for plan in plans) is bool(tier)
    assert any(len(copy) > 4 for plan in plans for copy in plan["load"]) is bool(tier)
    assert any("answers" in event for event in events) and any("ids" in event for event in events)
    report = replay_log(path)
    assert report.difference is None and report.plans == len(plans)
    for event in events:
        event.pop("answers", None)
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    assert replay_log(path).difference is not None  # who continues an answer finds less


def test_the_command_line_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = conversations()
    path = tmp_path / "talks.jsonl"
    ids = trace.hash_ids
    assert ids is not None
    rows = zip(trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist(), ids, strict=True)
    keys = "timestamp", "input_length", "output_length", "hash_ids"
    path.write_text(
        "".join(json.dumps(dict(zip(keys, (at // 10**6, *rest), strict=True))) + "\n" for at, *rest in rows),
        encoding="utf-8",
    )
    assert main([str(path), "--policy", "fcfs"]) == 0
    said = capsys.readouterr().out
    assert "prefix cache off: the trace has block ids but names no programs; --prefix-cache on shares them" in said
    assert main([str(path), "--policy", "fcfs", "--prefix-cache", "on"]) == 0
    said = capsys.readouterr().out
    assert "prefix cache on, as asked: the trace has block ids of 64 tokens" in said
    assert "prefix cache on   prefix tokens 64" in said
