"""What observers tell of a run whose body does other than planned agrees with its records, and a replay of its log
makes every plan again, amended ones too.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fastserve.flightlog.replay import replay_log
from fastserve.flightlog.write import FlightLog
from fastserve.observers.explain import Explanation
from fastserve.observers.iterations import IterationLog
from fastserve.observers.live_feed import LiveFeed
from fastserve.observers.timeline import Timeline
from fastserve.policies import make
from fastserve.sched.config import SchedulerConfig
from fastserve.sched.job import NEVER, Job
from fastserve.sched.observer import Observer, Run
from fastserve.sched.plan import Outcome, Plan
from sim.world import World
from tests.observers.chrome_trace import check
from tests.sched.sharing import programs
from tests.sched.trouble import AmendingMachine, PlanWhims, SchedulerTrouble, troubled
from tests.sched.uneven import Truth
from tests.sched.worlds import MS, build, hardware, workload

JOBS = 40
SMALL = 60  # blocks
CASES = [
    ("fcfs", {"residency": "recompute"}),
    ("srpt", {"residency": "recompute", "max_resident": 6}),
    ("mlfq", {"residency": "recompute", "max_resident": 9, "prefix_cache": "on"}),
    ("sj-mlfq", {"residency": "proactive", "prefix_cache": "on"}),
    ("lpm", {"residency": "reactive", "prefix_cache": "on"}),
]


class Seated(Observer):
    """At each commit those who run hold a place each, and no others."""

    def began(self, run: Run, now: int) -> None:
        self.run = run
        self.jobs: dict[int, Job] = {}
        self.told: Counter[str] = Counter()

    def submitted(self, job: Job, now: int) -> None:
        self.jobs[job.id] = job

    def amended(self, plan: Plan, now: int) -> None:
        assert plan.amended is not None
        self.told["amended"] += 1
        self.told["absent"] += len(plan.amended.absent)
        self.told["lost"] += len(plan.amended.lost)

    def corrected(self, job: Job, tokens: int, now: int) -> None:
        self.told["corrected"] += 1

    def pool_resized(self, blocks: int, now: int) -> None:
        self.told["resized"] += 1

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        holders = set(self.run.seats.of) - {job for job in self.run.seats.of if job.finish}
        assert holders == set(self.run.scheduler.running)
        assert len(set(self.run.seats.of.values())) == len(self.run.seats.of)


def run(name: str, options: dict[str, Any], *observers: Observer, log: Path | None = None) -> World:
    rng = random.Random(f"amended {name}")
    work = workload(rng, JOBS, False, 4, cancels=True)
    if options.get("prefix_cache") == "on":
        programs(rng, work, 16)
    machine = hardware(False)
    settings = {"max_batch": 4, "visit": 0, **options}
    blocks = {"device_blocks": SMALL, "host_blocks": SMALL if options["residency"] != "recompute" else 0}
    truth = Truth(3, work.output, 1, calm=4)

    def body(*facts: Any) -> AmendingMachine:
        latency, carrier, _, inbox = facts
        return AmendingMachine(latency, carrier, truth, inbox, work.answers)

    world, scheduler = build(make(name), work, machine, settings | blocks, body=body)
    end = max(work.arrival) + 3_000 * MS
    told = [(rng.randrange(end), id, rng.choice([-1, 2])) for id in range(JOBS) for _ in range(3)]
    told += [(rng.randrange(end), -1, rng.randint(8, SMALL)) for _ in range(20)] + [(end, -1, SMALL)]
    trouble = SchedulerTrouble(told, work.output, 16 * SMALL)
    troubled(world, PlanWhims(1, 2, max(work.arrival) + 5_000 * MS), trouble)
    if log is not None:
        about = {
            "policy": name, "knobs": {}, "hardware": machine.to_json(), "longest": max(work.prompt),
            "settings": asdict(SchedulerConfig(**settings)) | blocks | {"macro": scheduler.macro},
        }  # fmt: skip
        observers = (*observers, FlightLog(log, about))
    for observer in observers:
        world.attach(observer)
    world.run()
    return world


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_replay_makes_every_plan_again(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    seated = Seated()
    run(name, options, seated, log=tmp_path / "log")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    kinds = Counter(line.get("event") for line in lines)
    told = seated.told
    assert (kinds["amend"], kinds["correct"], kinds["resize_pool"]) == (
        told["amended"], told["corrected"], told["resized"],
    )  # fmt: skip
    assert min(told.values()) > 0
    report = replay_log(tmp_path / "log")
    assert report.difference is None
    assert report.plans == kinds["plan"]
    # Where an amend, a correction or a new size is left out, the plans are others; where it is another, that is told.
    for event in ("amend", "correct", "resize_pool"):
        rest = [json.dumps(line) + "\n" for line in lines if line.get("event") != event]
        (tmp_path / "other").write_text("".join(rest), encoding="utf-8")
        assert replay_log(tmp_path / "other").difference is not None, event
    for line in lines:
        if line.get("event") == "amend" and line["plan"]["prefill"]:
            line["plan"]["prefill"][0][1] += 1
            break
    (tmp_path / "other").write_text("".join([json.dumps(line) + "\n" for line in lines]), encoding="utf-8")
    report = replay_log(tmp_path / "other")
    assert report.difference is not None
    assert ", amended, at " in report.difference
    assert ": prefill is " in report.difference


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_life_is_told_as_its_record_says(name: str, options: dict[str, Any]) -> None:
    seated, stories = Seated(), [Explanation(id) for id in range(JOBS)]
    world = run(name, options, seated, *stories)
    records = world.recorder.columns()
    absent = lost = 0
    for id, story in enumerate(stories):
        if records["finish"][id] == "rejected":
            continue
        what = [line.what for line in story.told()]
        assert what[-1].startswith(f"ended ({records['finish'][id]})")
        left = sum([text.startswith(("preempted", "lost its place")) for text in what])
        assert left == records["preemptions"][id]
        absent += sum([text.startswith("it did not join") for text in what])
        lost += sum([text.startswith("lost its place") for text in what])
        if records["finish"][id] == "stop":
            assert story.waited / 1e9 == pytest.approx(records["queued"][id])
            assert story.between / 1e9 == pytest.approx(records["preempted"][id])
    assert absent >= seated.told["absent"] > 0
    assert 0 < lost <= seated.told["lost"]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_rows_and_slices_are_of_who_has_run(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    log, members = IterationLog(keep=True), set()
    world = run(name, options, log, Timeline(tmp_path / "t.json"))
    records = world.recorder.columns()
    left = Counter(id for row in log.rows for id in row.left)
    cancelled = set(records["id"][records["finish"] == "cancelled"].tolist())
    for id, preemptions in zip(records["id"].tolist(), records["preemptions"].tolist(), strict=True):
        assert 0 <= left[id] - preemptions <= (id in cancelled)
    for row in log.rows:
        members -= set(row.left)
        members |= {*row.joined, *row.resumed}
        assert len(members) <= 4
        assert row.batch <= len(members)
        members -= set(row.ended)
    made = sum([row.iterations * row.batch + len(row.prefilled) + sum([n for _, n in row.extra]) for row in log.rows])
    assert made > 0
    found = check((tmp_path / "t.json").read_text(encoding="utf-8"))
    visits = [event for event in found.events if event.get("cat") == "visit"]
    for track in found.slices("slot").values():
        mine = [(start, end) for start, end, event in track if event["cat"] == "visit"]
        assert all(one[1] <= other[0] for one, other in pairwise(mine))
    joins = sum([len(row.joined) + len(row.resumed) for row in log.rows])
    assert len(visits) == joins == world.recorder.joins


@pytest.mark.parametrize(("name", "options"), CASES)
def test_who_runs_by_events_is_who_runs(name: str, options: dict[str, Any]) -> None:
    feed, seats = LiveFeed(), {}

    def see(event: dict[str, Any]) -> None:
        if event["type"] == "join":
            assert event["id"] not in seats and event["slot"] not in seats.values()
            seats[event["id"]] = event["slot"]
        elif event["type"] == "leave":
            del seats[event["id"]]
        elif event["type"] == "end":
            seats.pop(event["id"], None)

    class Look(Observer):
        def began(self, run: Run, now: int) -> None:
            self.run = run

        def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
            assert seats == {job.id: seat for job, seat in self.run.seats.of.items() if not job.finish}

    feed.add(see)
    run(name, options, feed, Look())
    assert feed.watchers == (see,)  # it never raised
    assert seats == {}
    shown = feed.shown()["prefix"]
    if options.get("prefix_cache") == "on":
        assert 0 < shown["found"] < shown["asked"] < NEVER
