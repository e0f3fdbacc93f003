"""Observers: the timeline, the iteration log, gaps between tokens and a job's life, against what really happened."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.observers.explain import Explanation
from fastserve.observers.inter_token import Gaps, gaps
from fastserve.observers.iterations import COLUMNS, IterationLog
from fastserve.observers.live_feed import LiveFeed
from fastserve.observers.timeline import BATCH, LINK, Timeline
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from sim.world import World
from tests.sched.worlds import build, hardware, tuned, workload

SHORT = {"device_blocks": 90, "host_blocks": 60, "residency": "proactive", "batching": "chunked", "token_budget": 64}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("sj-mlfq", SHORT),
    ("mlfq", SHORT | {"residency": "recompute", "visit": 0}),
    ("chaos", SHORT | {"residency": "reactive", "batching": "mixed", "token_budget": None}),
    ("fcfs", {"batching": "prefill-first"}),
    ("srpt", SHORT | {"batching": "static", "token_budget": None}),
    ("sj-mlfq", {"batching": "chunked", "token_budget": 16}),
]


def world_of(name: str, options: dict[str, Any], macro: bool = True, cancels: bool = True) -> World:
    work = workload(random.Random(name), 120, coarse=False, slots=8, cancels=cancels)
    machine = hardware(coarse=False)
    world, _ = build(tuned(name, False), work, machine, {"max_batch": 8, **options}, macro)
    return world


def slices(document: list[dict[str, Any]], process: int) -> dict[int, list[tuple[int, int, dict[str, Any]]]]:
    """Track -> (start, end, event) in whole ns, by start; of two that start together the longer one first."""
    found = defaultdict(list)
    for event in document:
        if event["ph"] == "X" and event["pid"] == process:
            start = round(event["ts"] * 1000)
            found[event["tid"]].append((start, start + round(event["dur"] * 1000), event))
    return {track: sorted(events, key=lambda event: (event[0], -event[1])) for track, events in found.items()}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_timeline_is_well_formed_and_shows_every_job(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    world = world_of(name, options)
    world.attach(Timeline(tmp_path / "t.json"))
    world.run()
    document = events = json.loads((tmp_path / "t.json").read_text())
    assert {event["ph"] for event in events} <= {"M", "X", "i", "C"}
    told = [event for event in events if event["ph"] != "M" and event["pid"] == BATCH and event["name"] != "prefill"]
    known = [round(1000 * (event["ts"] + event.get("dur", 0))) for event in told]
    assert known == sorted(known), "an event is written when it is known"
    assert min([event["ts"] for event in events]) >= 0

    tokens: dict[str, int] = defaultdict(int)
    for track, found in slices(document, BATCH).items():
        assert 0 <= track < 8
        visits = [(start, end, event) for start, end, event in found if event["name"].startswith("job ")]
        for (_, end, _), (start, _, _) in itertools.pairwise(visits):
            assert end <= start
        inner = [entry for entry in found if entry not in visits]
        spans = {(start, end) for start, end, _ in visits}
        for start, end, event in inner:
            assert event["name"] in ("prefill", "decode")
            assert any(a <= start and end <= b for a, b in spans)
        for (_, end, _), (start, _, _) in itertools.pairwise(inner):
            assert end <= start
        for _, _, event in visits:
            assert {"policy", "prompt", "generated", "tokens", "end"} == set(event["args"])
            assert event["args"]["end"] in ("stop", "length", "cancelled", "preempted")
            tokens[event["name"]] += event["args"]["tokens"]
    records = world.recorder.columns()
    ran = {
        f"job {id}": int(n)
        for id, n, queued, finish in zip(
            records["id"], records["output_tokens"], records["queued"], records["finish"], strict=True
        )
        if finish != "cancelled" or n
    }
    assert {job: n for job, n in tokens.items() if n} == {job: n for job, n in ran.items() if n}

    preempted = [event for event in events if event["ph"] == "i" and event["name"] == "preempted"]
    assert len(preempted) == world.recorder.leaves
    assert all(event["args"]["reason"] for event in preempted)
    copied = slices(document, LINK)
    for way, track in (("swapped_out_bytes", 0), ("swapped_in_bytes", 1)):
        blocks = sum([event["args"]["blocks"] for _, _, event in copied.get(track, [])])
        assert blocks * world.recorder.block_bytes == int(records[way].sum())
        for (_, end, _), (start, _, _) in itertools.pairwise(copied.get(track, [])):
            assert end <= start
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert counters == {"jobs", "KV blocks"} | ({"queue levels"} if "mlfq" in name else set())
    last = [event["args"] for event in events if event["name"] == "jobs"][-1]
    assert last["waiting"] == 0


@pytest.mark.parametrize(("name", "options"), CASES)
def test_looking_changes_nothing(name: str, options: dict[str, Any]) -> None:
    plain = world_of(name, options)
    plain.run()
    watched = world_of(name, options)
    for observer in (Timeline(io.StringIO()), IterationLog(io.StringIO()), Explanation(5), LiveFeed(), Observer()):
        watched.attach(observer)
    watched.run()
    before, after = plain.recorder.columns(), watched.recorder.columns()
    for column in before:
        np.testing.assert_array_equal(before[column], after[column])


def test_a_timeline_ends_cleanly_at_its_bound(tmp_path: Path) -> None:
    world = world_of("mlfq", SHORT)
    timeline = Timeline(tmp_path / "t.json", most=500)
    world.attach(timeline)
    world.run()
    assert 400 < timeline.count <= 520
    assert timeline.cut
    document = json.loads((tmp_path / "t.json").read_text())
    last = max([end for found in slices(document, BATCH).values() for _, end, _ in found])
    assert last == timeline.ended_at
    open_at_the_end = [event for event in document if event["args"].get("end") == "still running"]
    assert open_at_the_end


class Tokens(Observer):
    """Every job's token times, by looking at each job after each iteration."""

    def __init__(self) -> None:
        self.had: dict[Job, int] = {}
        self.times: dict[Job, list[int]] = defaultdict(list)

    def planned(self, plan: Plan, now: int) -> None:
        self.members = plan.members

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        assert outcome.iterations == 1
        for job in self.members:
            if job.generated > self.had.get(job, 0):
                assert job.generated == self.had.get(job, 0) + 1
                self.had[job] = job.generated
                self.times[job].append(now)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_pooled_gaps_are_those_of_every_single_token(name: str, options: dict[str, Any]) -> None:
    single = world_of(name, options, macro=False)
    tokens = Tokens()
    single.attach(tokens)
    single.run()
    truth = np.sort(np.concatenate([np.diff(times) for times in tokens.times.values()]))

    world = world_of(name, options)
    log = IterationLog(keep=True)
    world.attach(log)
    world.run()
    assert len(log.rows) < single.scheduler.plans
    found = gaps(log.rows, world.machine.latency)
    assert found.n == len(truth)
    assert np.abs(np.repeat(found.values, found.counts) - truth).max() <= 2
    assert found.mean == pytest.approx(truth.mean() / 1e9, abs=1e-9)
    for q in (0.0, 0.5, 0.95, 0.99, 1.0):
        assert found.quantile(q) == pytest.approx(np.quantile(truth, q) / 1e9, abs=3e-9)


def test_gaps_of_nothing_and_of_a_few() -> None:
    empty = Gaps(np.array([], np.int64), np.array([], np.int64))
    assert empty.n == 0
    assert np.isnan(empty.quantile(0.5)) and np.isnan(empty.mean)
    assert str(empty) == "no gaps between tokens"
    few = Gaps(np.array([10, 20, 40], np.int64), np.array([2, 1, 3], np.int64))
    each = np.array([10, 10, 20, 40, 40, 40])
    for q in np.linspace(0, 1, 21):
        assert few.quantile(q) == pytest.approx(np.quantile(each, q) / 1e9)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        few.quantile(95)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_iteration_log_adds_up(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    world = world_of(name, options)
    log = IterationLog(tmp_path / "i.csv", keep=True)
    world.attach(log)
    world.run()
    with (tmp_path / "i.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert sum([int(row["iterations"]) for row in rows]) == world.recorder.iterations
    assert len(rows) == world.scheduler.plans
    records = world.recorder.columns()
    made = sum([int(row["iterations"]) * int(row["batch"]) + len(row["prefilled"].split()) for row in rows])
    assert made == int(records["output_tokens"].sum())
    ended = [int(id) for row in rows for id in row["ended"].split()]
    assert sorted(ended) == records["id"][np.isin(records["finish"], ("stop", "length"))].tolist()
    for row, after in zip(log.rows, log.rows[1:], strict=False):
        assert row.end <= after.start
    assert float(rows[-1]["start_s"]) == pytest.approx(log.rows[-1].start / 1e9, abs=1e-9)
    assert (rows[-1]["kv_used"], rows[-1]["kv_parked"]) == ("0", "0")


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_life_is_told_from_arrival_to_end_and_agrees_with_the_record(name: str, options: dict[str, Any]) -> None:
    world = world_of(name, options)
    stories = [Explanation(id) for id in range(120)]
    for story in stories:
        world.attach(story)
    world.run()
    records = world.recorder.columns()
    for id, story in enumerate(stories):
        lines = story.told()
        what = [line.what for line in lines]
        assert what[0].startswith("arrived")
        assert what[-1].startswith(f"ended ({records['finish'][id]})")
        assert [line.at for line in lines] == sorted([line.at for line in lines])
        assert lines[-1].generated == records["output_tokens"][id]
        assert lines[-1].served / 1e9 == pytest.approx(records["service"][id])
        assert lines[-1].age / 1e9 == pytest.approx(records["jct_from_arrival"][id])
        left = sum([text.startswith("preempted") for text in what])
        assert left == records["preemptions"][id]
        if records["output_tokens"][id]:
            first = next(line for line in lines if "first token" in line.what)
            assert first.age / 1e9 == pytest.approx(records["ttft"][id])
            assert story.waited / 1e9 == pytest.approx(records["queued"][id])
            assert story.stalled / 1e9 == pytest.approx(records["stalled"][id])
        if records["finish"][id] == "stop":
            assert story.between / 1e9 == pytest.approx(records["preempted"][id])
        leaves = sum([text.endswith("starts to leave for the host") for text in what])
        assert bool(leaves) == bool(records["swapped_out_bytes"][id])
        assert story.text(name, 0).count("\n") == len(lines) + 2


def test_demotions_and_who_took_the_place_are_told() -> None:
    world = world_of("mlfq", {"visit": 0}, cancels=False)
    stories = [Explanation(id) for id in range(120)]
    for story in stories:
        world.attach(story)
    world.run()
    told = [line.what for story in stories for line in story.told()]
    assert any(text.startswith("demoted from Q1: Q2") for text in told)
    assert any("its place was needed by job " in text for text in told)
    assert any("its KV is still on the device" in text for text in told)
