"""Observers: the timeline, the iteration log, gaps between tokens and a job's life, against what really happened."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
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
from fastserve.observers.lives import Lives
from fastserve.observers.timeline import Timeline
from fastserve.observers.trace_file import TraceFile
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from sim.world import World
from tests.observers.chrome_trace import check
from tests.sched.worlds import build, hardware, tuned, workload

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_timeline_is_well_formed_and_shows_every_job(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    world = world_of(name, options)
    world.attach(Timeline(tmp_path / "t.json", name="this run"))
    world.run()
    found = check((tmp_path / "t.json").read_text())
    events = found.events
    assert set(found.groups.values()) == {"this run"}
    told = [event for event in events if event.get("cat") in ("visit", "wait", "event", "counter")]
    known = [round(1000 * (event["ts"] + event.get("dur", 0))) for event in told]
    assert known == sorted(known), "an event is written when it is known"

    tokens: dict[str, int] = defaultdict(int)
    slots = found.slices("slot")
    assert len(slots) <= 8
    for track in slots.values():
        visits = [(start, end, event) for start, end, event in track if event["cat"] == "visit"]
        for (_, end, _), (start, _, _) in itertools.pairwise(visits):
            assert end <= start
        inner = [entry for entry in track if entry not in visits]
        spans = {(start, end) for start, end, _ in visits}
        for start, end, event in inner:
            assert event["name"] in ("prefill", "decode")
            assert any(a <= start and end <= b for a, b in spans)
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
    copied = found.slices("link")
    for way, beginning in (("swapped_out_bytes", "link out"), ("swapped_in_bytes", "link in")):
        copies = [entry for track, entries in copied.items() if track.startswith(beginning) for entry in entries]
        blocks = sum([event["args"]["blocks"] for _, _, event in copies])
        assert blocks * world.recorder.block_bytes == int(records[way].sum())
        for (_, end, _), (start, _, _) in itertools.pairwise(copies):
            assert end <= start
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert counters == {"jobs", "KV blocks"} | ({"queue levels"} if "mlfq" in name else set())
    last = [event["args"] for event in events if event["name"] == "jobs"][-1]
    assert last["waiting"] == 0


@pytest.mark.parametrize(("name", "options"), CASES)
def test_waits_are_those_of_the_records(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With lanes for all: how long each job waits at first and between visits, and that it is nowhere twice."""
    monkeypatch.setattr("fastserve.observers.timeline.LANES", 200)
    world, text = world_of(name, options), io.StringIO()
    world.attach(Timeline(text))
    world.run()
    found = check(text.getvalue())
    waited: dict[tuple[str, str], int] = defaultdict(int)
    where: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for track in [*found.slices("waiting").values(), *found.slices("slot").values()]:
        for start, end, event in track:
            job, _, why = event["name"].partition(", ")
            if event["cat"] in ("wait", "visit"):
                where[job].append((start, end))
                waited[job, why] += end - start
    records = world.recorder.columns()
    for id, finish, queued, between in zip(
        records["id"], records["finish"], records["queued"], records["preempted"], strict=True
    ):
        if finish == "stop":
            assert waited[f"job {id}", "new"] / 1e9 == pytest.approx(queued, abs=1e-9)
            assert waited[f"job {id}", "preempted"] / 1e9 == pytest.approx(between, abs=1e-9)
            stays = sorted(where[f"job {id}"])
            assert all(end == start for (_, end), (start, _) in itertools.pairwise(stays)), "no gap, nowhere twice"
    flows = {event["bind_id"] for event in found.events if "bind_id" in event}
    jobs = {event["name"].partition(",")[0] for event in found.events if "bind_id" in event}
    assert len(flows) == len(jobs)


def test_who_waits_beyond_the_lanes_is_in_the_counter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve.observers.timeline.LANES", 1)
    world, text = world_of("fcfs", {"batching": "prefill-first"}), io.StringIO()
    world.attach(Timeline(text))
    world.run()
    found = check(text.getvalue())
    assert list(found.slices("waiting")) == ["waiting 0"]
    most = max([event["args"]["waiting"] for event in found.events if event["name"] == "jobs"])
    assert most > 1


def test_several_runs_share_a_file(tmp_path: Path) -> None:
    """Each in a group of its own, on an axis that begins at 0, and each as it would be alone."""
    file = TraceFile(tmp_path / "t.json")
    for name in ("fcfs", "mlfq"):
        world = world_of(name, SHORT)
        world.attach(Timeline(file, name=name))
        world.run()
        check((tmp_path / "t.json").read_text())
    file.close()
    both = check((tmp_path / "t.json").read_text())
    assert list(both.groups.values()) == ["fcfs", "mlfq"]
    for name in ("fcfs", "mlfq"):
        text = io.StringIO()
        world = world_of(name, SHORT)
        world.attach(Timeline(text, name=name))
        world.run()
        alone = check(text.getvalue())
        for tracks in ("slot", "waiting", "link"):
            here = {track: [entry[:2] for entry in entries] for track, entries in both.slices(tracks, name).items()}
            there = {track: [entry[:2] for entry in entries] for track, entries in alone.slices(tracks).items()}
            assert here == there
    indices = [event["args"]["sort_index"] for event in both.events if event["name"] == "process_sort_index"]
    assert indices == [0, 1]


def test_a_file_is_whole_after_every_event(tmp_path: Path) -> None:
    """As it must be where the process is killed."""
    file = TraceFile(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == []
    group = file.group("one")
    for n in range(3):
        file.track(group, "w\u00e4rten" * n or "x")
        assert len(json.loads((tmp_path / "t.json").read_text())) == 4 + 2 * n
    file.close()
    file.close()
    check((tmp_path / "t.json").read_text())
    assert (tmp_path / "t.json").read_text().endswith("\n]\n")


def test_a_killed_process_leaves_whole_json(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from fastserve.observers.timeline import Timeline
from fastserve.sched.observer import Observer
from tests.observers.test_timeline import SHORT, world_of

class Killer(Observer):
    plans = 0
    def planned(self, plan, now):
        self.plans += 1
        if self.plans == 150:
            os.kill(os.getpid(), signal.SIGKILL)

world = world_of("mlfq", SHORT)
world.attach(Timeline(sys.argv[1]))
world.attach(Killer())
world.run()
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "t.json")], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    found = check((tmp_path / "t.json").read_text(), whole=False)
    assert len(found.events) > 150


def test_a_pipe_gets_the_end_when_it_is_closed(tmp_path: Path) -> None:
    """Nothing in it can be written twice."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "read").open("wb") as read:
        reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=read)
        world = world_of("fcfs", {})
        world.attach(Timeline(tmp_path / "pipe"))
        world.run()
        assert reader.wait(60) == 0
    check((tmp_path / "read").read_text())


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
    found = check((tmp_path / "t.json").read_text(), whole=False)
    last = max([end for track in found.slices("slot").values() for _, end, _ in track])
    assert last == timeline.ended_at
    open_at_the_end = [event["args"]["end"] for event in found.events if "still" in event["args"].get("end", "")]
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


@pytest.mark.parametrize(("name", "options"), CASES)
def test_lives_of_all_are_what_each_alone_would_be(name: str, options: dict[str, Any]) -> None:
    world = world_of(name, options)
    all_of_them, stories = Lives(), [Explanation(id) for id in range(120)]
    for observer in (all_of_them, *stories):
        world.attach(observer)
    world.run()
    for story in stories:
        assert all_of_them.told[story.id].text(name) == story.text(name)
