"""What watchers are told, against what the engine is at the same moment: on a loop without a thread."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine.params import SamplingParams
from fastserve.engine.snapshot import take
from fastserve.observers.live_feed import LiveFeed
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from tests.engine.test_loop import Setting
from tests.sched.worlds import COARSE, MS


class Viewer:
    """Folds events as the page does. seats: slot of each job that runs, by id. since: s; older events are left out."""

    def __init__(self, setting: Setting) -> None:
        self.seats: dict[int, int] = {}
        self.since = 0.0
        self.told: list[dict[str, Any]] = []
        self.feed = LiveFeed()
        self.feed.add(self.see)
        setting.loop.observers.attach(self.feed)

    def see(self, event: dict[str, Any]) -> None:
        self.told.append(event)
        if event["at"] < self.since:
            return
        match event["type"]:
            case "join":
                assert event["id"] not in self.seats
                assert event["slot"] not in self.seats.values()
                self.seats[event["id"]] = event["slot"]
            case "leave":
                del self.seats[event["id"]]
            case "end":
                self.seats.pop(event["id"], None)


def compare(setting: Setting, viewer: Viewer) -> Counter[str]:
    """Plays to the end; before each step and at each boundary, who runs by events is who runs. Returns what is told."""
    loop = setting.loop
    steps: list[tuple[set[int], set[int]]] = []
    broken = setting.backend.fail_step

    def step(plan: Plan) -> None:
        steps.append((set(viewer.seats), {job.id for job in plan.members}))  # what is raised here, the loop would catch
        if callable(broken):
            broken(plan)

    setting.backend.fail_step = step
    while not setting.inbox.empty or setting.scheduler.live:
        if not loop.turn():
            loop.rest()
        views = take(loop, 0).jobs
        assert viewer.seats == {view.id: view.slot for view in views if view.state == "running"}
    assert viewer.feed.watchers == (viewer.see,)  # it never raised
    assert viewer.seats == {}
    assert len(steps) > 12
    assert [told for told, _ in steps] == [members for _, members in steps]
    return Counter(event["type"] for event in viewer.told)


def crowd(setting: Setting) -> None:
    for id in range(12):
        params = SamplingParams(max_tokens=3 + 9 * (id % 3)).resolved({})
        setting.put(id, id // 4 * 20 * MS, prompt=10 + 60 * (id % 2), params=params)


@pytest.mark.parametrize("policy", ["fcfs", "mlfq", "sj-mlfq", "las"])
def test_who_runs_by_events_is_who_runs(policy: str) -> None:
    setting = Setting(policy, visit=0)
    viewer = Viewer(setting)
    crowd(setting)
    kinds = compare(setting, viewer)
    assert kinds["arrive"] == kinds["end"] == 12
    assert kinds["join"] == kinds["leave"] + 12
    if policy != "fcfs":
        assert kinds["leave"] > 0


def test_nor_do_they_differ_after_a_step_that_failed() -> None:
    met: set[tuple[int, int]] = set()

    def fail(job: Job, index: int) -> None:
        if (job.id, index) in {(0, 2), (4, 1)} - met:
            met.add((job.id, index))
            raise MemoryError("as asked")

    setting = Setting("mlfq", backend=ScriptedBackend(hardware=COARSE, fail=fail))
    viewer = Viewer(setting)
    crowd(setting)
    kinds = compare(setting, viewer)
    assert len(met) == 2
    assert kinds["join"] == kinds["leave"] + 12


def test_what_follows_a_snapshot_is_not_older_than_it() -> None:
    """The page leaves out events from before its snapshot: the plan after it, made for the same boundary, is none."""
    setting = Setting("mlfq", visit=0)
    viewer = Viewer(setting)
    crowd(setting)
    drain = setting.loop.drain
    seen: list[float] = []

    def drained() -> None:
        drain()
        setting.clock.sleep_until(setting.clock.now() + MS)  # the boundary has passed when it is asked
        snapshot = take(setting.loop, 0)
        viewer.since = snapshot.at
        viewer.seats = {view.id: view.slot for view in snapshot.jobs if view.slot is not None}
        seen.append(snapshot.at)

    setting.loop.drain = drained  # type: ignore[method-assign]
    compare(setting, viewer)
    assert len(seen) > 1
