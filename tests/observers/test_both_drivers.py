"""What an observer writes of a live run is what it writes of a simulated one in which the same happens."""

from __future__ import annotations

import io
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.flightlog.replay import replay_log
from fastserve.flightlog.write import FlightLog
from fastserve.observers.explain import Explanation
from fastserve.observers.inter_token import gaps
from fastserve.observers.iterations import IterationLog, Stretch
from fastserve.observers.live_feed import LiveFeed
from fastserve.observers.schedule import Schedule
from fastserve.observers.timeline import Timeline
from fastserve.sched.config import SchedulerConfig
from fastserve.sched.job import Job
from tests.observers.both import SWAPPING, lived, script, simulated
from tests.observers.chrome_trace import check
from tests.sched.worlds import hardware

NAMES = ("fcfs", "mlfq", "sj-mlfq", "las")


class Seen:
    """One observer of each kind, and what it has written."""

    def __init__(self, requests: int = 60) -> None:
        self.timeline = io.StringIO()
        self.iterations = io.StringIO()
        self.log = IterationLog(self.iterations, keep=True)
        self.stories = [Explanation(id) for id in range(requests)]
        self.feed = LiveFeed()
        self.events: list[dict[str, Any]] = []
        self.feed.add(self.events.append)
        self.schedule = Schedule()
        self.all = (Timeline(self.timeline), self.log, self.feed, self.schedule, *self.stories)

    def texts(self, name: str) -> tuple[str, str, list[str], list[dict[str, Any]]]:
        stories = [story.text(name) for story in self.stories]
        return self.timeline.getvalue(), self.iterations.getvalue(), stories, self.events


@pytest.mark.parametrize("name", NAMES)
def test_the_same_files_and_events(name: str) -> None:
    work = script(name)
    ours, theirs = Seen(), Seen()
    simulated(name, work, SWAPPING, *ours.all)
    lived(name, work, SWAPPING, *theirs.all)
    for mine, live in zip(ours.texts(name), theirs.texts(name), strict=True):
        assert mine == live
    assert ours.schedule.events == theirs.schedule.events
    assert list(ours.schedule.texts) == list(theirs.schedule.texts)
    found = check(ours.timeline.getvalue())
    assert len(found.events) > 300
    assert any(event["name"] == "preempted" for event in found.events)
    assert len(ours.log.rows) > 200


@pytest.mark.parametrize("name", NAMES)
def test_a_stretch_is_the_iterations_that_a_body_does_one_by_one(name: str) -> None:
    """The simulator's own rows, several iterations each, against a live log: times, changes, tokens, and gaps."""
    work = script(name)
    stretched, single = IterationLog(keep=True), IterationLog(keep=True)
    simulated(name, work, SWAPPING, stretched, macro=True)
    lived(name, work, SWAPPING, single)
    assert len(stretched.rows) < len(single.rows)
    rest = iter(single.rows)
    for row in stretched.rows:
        parts: list[Stretch] = [next(rest) for _ in range(row.iterations)]
        first, last = parts[0], parts[-1]
        assert (row.start, row.end, row.stall) == (first.start, last.end, first.stall)
        assert (row.joined, row.resumed, row.left) == (first.joined, first.resumed, first.left)
        assert (row.prefilled, row.ended) == (last.prefilled, last.ended)
        assert (row.kv_used, row.kv_parked, row.kv_hosted) == (last.kv_used, last.kv_parked, last.kv_hosted)
        assert row.batch * row.iterations == sum(part.batch for part in parts)
    assert next(rest, None) is None
    latency = hardware(False).latency
    found, truth = gaps(stretched.rows, latency), gaps(single.rows, latency)
    assert found.n == truth.n
    pooled = [np.repeat(each.values, each.counts) for each in (found, truth)]
    assert np.abs(pooled[0] - pooled[1]).max() <= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_simulated_flight_log_leads_to_the_same_plans(name: str, tmp_path: Path) -> None:
    machine = hardware(False)
    work = script(name)
    settings = {key: value for key, value in SWAPPING.items() if not key.endswith("_blocks")}
    header = {
        "policy": name,
        "knobs": {"quantum": 0.1} if name == "las" else {},  # as tuned() has it
        "hardware": machine.to_json(),
        "longest": max(work.prompt),
        "settings": asdict(SchedulerConfig(**settings))
        | {"device_blocks": SWAPPING["device_blocks"], "host_blocks": SWAPPING["host_blocks"], "macro": True},
    }
    recorder = simulated(name, work, SWAPPING, FlightLog(tmp_path / "flight.jsonl", header), macro=True)
    report = replay_log(tmp_path / "flight.jsonl")
    assert report.difference is None
    assert report.plans >= recorder.plans > 100
    assert report.jobs == 60


def fail_twice() -> Any:
    left = {(0, 2), (4, 1)}

    def fail(job: Job, index: int) -> None:
        if (job.id, index) in left:
            left.remove((job.id, index))
            raise MemoryError("as asked")

    return fail


def test_a_step_that_fails_is_in_all_of_them() -> None:
    """Nobody's tokens are lost or told twice, and nobody sits in two slots."""
    seen = Seen(12)
    with Engine.scripted(policy="mlfq", max_batch=4, fail=fail_twice()) as engine:
        for observer in seen.all:
            engine.attach(observer)
        prompts = ["x" * (10 + 60 * (i % 2)) for i in range(12)]
        outputs = engine.generate(prompts, [SamplingParams(max_tokens=3 + 9 * (i % 3), seed=i) for i in range(12)])
        assert engine.counters["oom"] == 2
    drawn = check(seen.timeline.getvalue())
    tokens: dict[str, int] = {}
    for event in drawn.events:
        if event.get("cat") == "visit":
            tokens[event["name"]] = tokens.get(event["name"], 0) + event["args"]["tokens"]
    assert tokens == {f"job {output.id}": len(output.token_ids) for output in outputs}
    assert sum(event["name"].startswith("the step failed") for event in drawn.events) == 2
    for track in drawn.slices("slot").values():
        visits = [(start, end) for start, end, event in track if event["cat"] == "visit"]
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(visits))
    rows = seen.log.rows
    assert sum(row.batch + len(row.prefilled) for row in rows) == sum(tokens.values())
    inside: set[int] = set()
    for row in rows:
        inside -= set(row.left)
        assert not inside & {*row.joined, *row.resumed}
        inside |= {*row.joined, *row.resumed}
        inside -= set(row.ended)
    assert inside == set()
    assert gaps(rows, engine.hardware.latency).n == sum(tokens.values()) - 12
    told = [line.what for story in seen.stories for line in story.told()]
    assert sum(text.startswith("a step failed") for text in told) >= 8
    assert sum(text.startswith("ended (length)") for text in told) == 12


def row(start: int, batch: int, **facts: Any) -> Stretch:
    """One iteration of 10 ns."""
    empty: dict[str, Any] = dict.fromkeys(("joined", "resumed", "left", "prefilled", "ended", "extra"), ())
    numbers = dict.fromkeys(("context", "prefill_tokens", "prefill_cached", "stall"), 0)
    numbers |= dict.fromkeys(("waiting", "kv_used", "kv_parked", "kv_hosted"), 0)
    return Stretch(**{"start": start, "iterations": 1, "batch": batch, "service": 10, **empty, **numbers, **facts})


def test_gaps_of_uneven_iterations() -> None:
    """Job 1 and 2 are prefilled; 2 gets none at 20 and 30, 1 gets three at 30; both get one at 40."""
    log = [
        row(0, 0, joined=(1, 2), prefilled=(1, 2), extra=((2, -1),)),
        row(10, 2),
        row(20, 2, extra=((1, 2), (2, -1))),
        row(30, 2),
    ]
    found = gaps(log, hardware(False).latency)
    # job 1: tokens at 10, 20, 30, 30, 30, 40; job 2: at 20 and 40
    assert dict(zip(found.values.tolist(), found.counts.tolist(), strict=True)) == {0: 2, 10: 3, 20: 1}
