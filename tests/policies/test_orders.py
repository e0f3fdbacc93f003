"""fcfs, fixed-priority, sjf, srpt and las: who goes first, and who is interrupted."""

from __future__ import annotations

import pytest

from fastserve.hardware.machine_times import MachineTimes
from fastserve.policies import make
from fastserve.sched.job import Job
from tests.policies.desk import MS, Desk
from tests.sched.worlds import COARSE, scheduler_of


def test_fcfs_runs_to_completion_in_order_of_arrival() -> None:
    desk = Desk("fcfs")
    first, second = desk.come(500), desk.come(1)
    assert [desk.run(1) for _ in range(3)] == [[first]] * 3
    assert desk.run(1, first) == [first] and desk.run(1) == [second]
    assert desk.policy.explain(second) == "arrived at 0.000 s"


def test_fixed_priority_lets_the_shorter_prompt_interrupt() -> None:
    desk = Desk("fixed-priority")
    long = desk.come(50)
    assert desk.run(1) == [long]
    equal, short = desk.come(50), desk.come(10)
    assert desk.run(1) == [short] and long.preemptions == 1
    desk.run(1, short)
    assert desk.run(1) == [long]
    assert desk.policy.explain(equal) == "prompt 50"


def test_fixed_priority_does_not_change_with_progress() -> None:
    desk = Desk("fixed-priority")
    job = desk.come(50)
    for _ in range(100):
        desk.run(1)
    desk.come(51)
    assert desk.run(1) == [job]


def test_sjf_takes_the_shortest_guess_and_interrupts_nobody() -> None:
    desk = Desk("sjf")
    long = desk.come(guess=100)
    desk.run(1)
    middle, short = desk.come(guess=50), desk.come(guess=5)
    assert [desk.run(1) for _ in range(5)] == [[long]] * 5
    desk.run(1, long)
    assert desk.run(1, short) == [short] and desk.run(1) == [middle]
    assert desk.policy.explain(middle) == "guess 50"


def test_srpt_counts_what_is_left() -> None:
    """After 4 tokens, 6 of 10 are left: who needs 6 waits, who needs 5 interrupts."""
    desk = Desk("srpt")
    job = desk.come(guess=10)
    for _ in range(4):
        desk.run(1)
    desk.come(guess=6)
    assert desk.run(1) == [job]
    five = desk.come(guess=4)
    assert desk.run(1) == [five]
    assert desk.policy.explain(job) == "5 tokens left of 10 guessed"


def test_srpt_ignores_the_prefill_as_the_artifact_does() -> None:
    desk = Desk("srpt")
    desk.come(1, guess=10)
    long_prompt = desk.come(900, guess=9)
    assert desk.run(1) == [long_prompt]


def test_srpt_with_a_guess_too_short_goes_on() -> None:
    """It has less than nothing left, so it goes first; nothing breaks."""
    desk = Desk("srpt")
    job = desk.come(guess=2)
    for _ in range(5):
        assert desk.run(1) == [job]
    desk.come(guess=1)
    assert desk.run(1) == [job]


@pytest.mark.parametrize("name", ["sjf", "srpt"])
def test_a_guess_is_needed(name: str) -> None:
    scheduler = scheduler_of(make(name), MachineTimes(COARSE, 1, 100))
    with pytest.raises(ValueError, match=r"has no guess, and policy .* needs one: add a predictor"):
        scheduler.submit(Job(0, 0, 10), 0)


def test_las_serves_who_has_had_least() -> None:
    """Quanta of one decode, 10 ms: two equal jobs take turns, a newcomer goes first until it has caught up."""
    desk = Desk("las")
    a, b = desk.come(), desk.come()
    assert [desk.run(10)[0] for _ in range(4)] == [a, b, b, a]  # who runs stays on a tie
    new = desk.come()
    assert [desk.run(10)[0] for _ in range(3)] == [new, new, new]
    assert desk.run(10) == [a]
    assert desk.policy.explain(a) == "served 30 ms"


@pytest.mark.parametrize(("quantum", "turns"), [(0.0, 1), (0.02, 2), (0.05, 5)])
def test_las_quantum(quantum: float, turns: int) -> None:
    """Somebody who waits is noticed to have had less once a quantum is over."""
    desk = Desk("las", quantum=quantum)
    a, b = desk.come(), desk.come()
    assert [desk.run(10)[0] for _ in range(turns + 1)] == [a] * turns + [b]


def test_las_counts_a_long_iteration_whole() -> None:
    desk = Desk("las")
    a = desk.come(100)
    desk.run(100)
    b = desk.come()
    assert [desk.run(10)[0] for _ in range(11)] == [b] * 11  # a tie at 100 ms leaves b in place
    assert desk.run(10) == [a]
    assert desk.now == 220 * MS


def test_las_refuses_a_negative_quantum() -> None:
    with pytest.raises(ValueError, match="policy las: quantum=-1 must not be negative"):
        make("las", {"quantum": -1})


def test_priority_goes_by_the_requests_own_number_and_interrupts() -> None:
    """vLLM's direction: the smaller, the sooner; unlike there also where slots are short and memory is not."""
    desk = Desk("priority")
    usual = desk.come(priority=5)
    assert desk.run(1) == [usual]
    equal, urgent = desk.come(priority=5), desk.come(priority=-3)
    assert desk.run(1) == [urgent] and usual.preemptions == 1
    desk.run(1, urgent)
    assert desk.run(1) == [usual]
    assert desk.policy.explain(equal) == "priority 5"
