"""Little's law, L = lambda W: the records say how long jobs stayed, a count of who was there says how many."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fastserve.sched.job import Job
from tests.sched.worlds import COARSE, NAMES, build, tuned, workload


class Census:
    """The time integral of the number of jobs in the system, in job-ns, taken at the Scheduler's own door.

    A job that arrives during an iteration is submitted at its end, and has been in the system meanwhile.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.since = 0
        self.area = 0
        self.submit, self.cancel, self.commit = scheduler.submit, scheduler.cancel, scheduler.commit
        scheduler.submit, scheduler.cancel, scheduler.commit = self.submitted, self.cancelled, self.committed

    def tick(self, now: int) -> None:
        self.area += len(self.scheduler.live) * (now - self.since)
        self.since = now

    def submitted(self, job: Job, now: int) -> None:
        self.tick(now)
        self.submit(job, now)
        self.area += now - job.arrival

    def cancelled(self, job: Job, now: int) -> None:
        self.tick(now)
        self.cancel(job, now)

    def committed(self, plan: Any, outcome: Any, now: int) -> list[Job]:
        self.tick(now)
        finished: list[Job] = self.commit(plan, outcome, now)
        return finished


@pytest.mark.parametrize("memory", ["unlimited", "recompute", "proactive"])
@pytest.mark.parametrize("name", NAMES)
def test_number_in_system_is_rate_times_jct(name: str, memory: str) -> None:
    rng = random.Random(f"{name} {memory}")
    slots = 6
    work = workload(rng, 150, True, slots, cancels=True)
    biggest = max(-(-(p + o) // 16) for p, o in zip(work.prompt, work.output, strict=True))
    options: dict[str, Any] = {
        "max_batch": slots,
        "device_blocks": None if memory == "unlimited" else biggest + 12,
        "host_blocks": 2 * biggest,
        "residency": "proactive" if memory == "unlimited" else memory,
        "visit": 2,
    }
    world, scheduler = build(tuned(name, True), work, COARSE, options)
    census = Census(scheduler)
    world.run()
    jct = world.recorder.columns()["jct_from_arrival"]
    horizon = world.recorder.horizon / 1e9
    number = census.area / 1e9 / horizon
    assert number == pytest.approx(len(jct) / horizon * jct.mean(), rel=1e-9)
    assert number > 1
