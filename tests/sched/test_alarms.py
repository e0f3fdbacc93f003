"""What rings: an entry of a heap counts while the job's goal and base agree with it."""

from __future__ import annotations

import pytest

from fastserve.sched.alarms import Alarms, served_at, tokens_at, waited_at
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import NEVER, Job, Meter
from fastserve.sched.policy import KEEP, Policy


class Listener(Policy):
    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []
        self.alarms: Alarms | None = None

    def rank(self, job: Job) -> int:
        return 0

    def alarm(self, job: Job, why: str) -> None:
        self.heard.append((job.id, why))
        if job.id == 13:
            raise KeyError("thirteen")
        if job.id == 7 and self.alarms is not None:  # takes the next job's alarm away
            self.alarms.wake(self.others[0], None, None, None)

    others: list[Job]


def desk() -> tuple[Listener, Meter, Alarms]:
    policy, meter = Listener(), Meter(16)
    alarms = Alarms(policy, meter)
    return policy, meter, alarms


def member(meter: Meter, id: int = 0, arrival: int = 0) -> Job:
    job = Job(id, arrival, 1)
    job.meter = meter
    job.running = job.rolling = True
    return job


def test_each_kind_rings_once_on_its_own_clock() -> None:
    policy, meter, alarms = desk()
    job = member(meter)
    alarms.wake(job, 50, 3, KEEP)
    assert (alarms.next_served(), alarms.next_tokens(), alarms.next_waited()) == (50, 3, NEVER)
    meter.service, meter.steps = 49, 2
    assert not alarms.ripe(0)
    meter.service, meter.steps = 50, 3
    assert alarms.ripe(0) and alarms.ring(0)
    assert policy.heard == [(0, "served"), (0, "tokens")]
    assert not alarms.ripe(10**9) and alarms.next_served() == alarms.next_tokens() == NEVER


def test_waiting_rings_again_and_again() -> None:
    policy, meter, alarms = desk()
    job = Job(0, 0, 1)
    job.meter = meter
    alarms.wake(job, KEEP, KEEP, 10)
    for now in (10, 20, 35):
        assert alarms.ring(now)
    assert policy.heard == [(0, "waited")] * 3 and alarms.next_waited() == 45
    job.running = True
    assert alarms.next_waited() == NEVER


def test_a_replaced_alarm_does_not_ring() -> None:
    policy, meter, alarms = desk()
    job = member(meter)
    alarms.wake(job, 5, KEEP, KEEP)
    alarms.wake(job, 9, KEEP, KEEP)
    meter.service = 5
    assert alarms.ripe(0) and not alarms.ring(0) and policy.heard == []
    alarms.wake(job, None, KEEP, KEEP)
    meter.service = 100
    assert not alarms.ring(0) and served_at(job) == NEVER


def test_set_twice_for_the_same_time_it_rings_once() -> None:
    policy, meter, alarms = desk()
    job = member(meter)
    for amount in (5, 7, 5):
        alarms.wake(job, amount, amount, KEEP)
    meter.service = meter.steps = 5
    assert alarms.ring(0) and policy.heard == [(0, "served"), (0, "tokens")]


def test_the_order_is_by_arrival_and_an_earlier_one_may_undo_a_later() -> None:
    policy, meter, alarms = desk()
    late, early, last = member(meter, 1, 30), member(meter, 7, 10), member(meter, 2, 40)
    for job in (late, last, early):
        alarms.wake(job, 1, KEEP, KEEP)
    policy.alarms, policy.others = alarms, [late]
    meter.service = 9
    assert alarms.ring(0)
    assert policy.heard == [(7, "served"), (2, "served")]


def test_clocks_stand_still_outside_the_batch() -> None:
    _, meter, alarms = desk()
    job = member(meter)
    alarms.wake(job, 5, 5, 5)
    job.running = job.rolling = False
    assert served_at(job) == tokens_at(job) == NEVER and waited_at(job) == 5
    assert alarms.next_served() == alarms.next_tokens() == NEVER


def test_a_policy_that_raises_is_named() -> None:
    _, meter, alarms = desk()
    alarms.wake(member(meter, 13), 1, KEEP, KEEP)
    meter.service = 1
    with pytest.raises(PolicyError, match=r"policy Listener, alarm\(\) of job 13"):
        alarms.ring(0)
