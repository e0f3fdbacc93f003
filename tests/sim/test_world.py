"""The simulated world: its clock, its ends, and that SimPy's turns change nothing."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from sim import world as module
from sim.clock import Clock
from sim.world import World
from tests.sched.worlds import COARSE, MS, Work, build, tuned, workload

OPTIONS: dict[str, Any] = {"max_batch": 4, "device_blocks": 60, "host_blocks": 120, "visit": 0}


def world(name: str | Policy = "sj-mlfq", work: Work | None = None, **options: Any) -> World:
    policy = tuned(name, True) if isinstance(name, str) else name
    work = workload(random.Random(3), 60, True, 4, cancels=True) if work is None else work
    return build(policy, work, COARSE, OPTIONS | options)[0]


@pytest.mark.parametrize("batching", ["chunked", "static"])
def test_how_often_simpy_has_its_turn_changes_nothing(batching: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for stride in (1, 2, 256):
        monkeypatch.setattr(module, "STRIDE", stride)
        one = world(batching=batching, static_timeout=20 * MS)
        one.run()
        found.append((one.recorder.columns(), one.scheduler.plans, one.recorder.horizon))
    for columns, plans, horizon in found[1:]:
        assert (plans, horizon) == found[0][1:]
        for name, values in columns.items():
            assert np.array_equal(values, found[0][0][name], equal_nan=values.dtype.kind == "f"), name


def test_copies_are_carried_while_the_clock_stands_still() -> None:
    one = world()
    one.run()
    assert one.recorder.columns()["swapped_out_bytes"].sum() > 0
    busy = one.link.busy_ns
    assert busy[True] > 0 and busy[False] > 0 and not one.link.queue


def test_a_clock_is_set_right_before_others_run() -> None:
    clock = Clock()
    heard = []

    def lags() -> Any:
        yield clock.until(70)  # it kept the time itself until then
        heard.append(clock.now)
        yield clock.until(40)
        heard.append(clock.now)

    clock.process(lags())
    clock.run()
    assert heard == [70, 70]


def test_a_backlog_beyond_its_bound_ends_the_run() -> None:
    work = Work([0] * 30, [10] * 30, [50] * 30, 50, [])
    one = world("fcfs", work)
    one.max_backlog = 20
    one.run()
    assert one.collapsed and set(one.recorder.columns()["finish"]) == {"unfinished"}


def test_it_stops_when_it_is_told_to() -> None:
    one = world()
    one.watch = lambda ended: setattr(one, "stopped", True)
    one.run()
    finish = one.recorder.columns()["finish"].tolist()
    assert 0 < sum(word != "unfinished" for word in finish) < len(finish)


class Breaks(Policy):
    def rank(self, job: Job) -> int:
        if job.id == 5:
            raise ZeroDivisionError
        return 0


class Hides(Policy):
    def rank(self, job: Job) -> int:
        return 0

    def waiting(self) -> list[Job]:
        return []


def test_what_a_policy_breaks_is_told_as_its_fault() -> None:
    with pytest.raises(PolicyError, match=r"policy Breaks, rank\(\) of job 5"):
        world(Breaks()).run()
    with pytest.raises(PolicyError, match="left out 1 waiting jobs, such as job 0; name every waiting job once"):
        world(Hides(), Work([0], [1], [1], 1, [])).run()
