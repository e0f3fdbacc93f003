"""continuum, thunder and concur: which programs are let in, on numbers worked by hand.

A prefill takes 1 ms a token, the pool 640 tokens.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.policies import make
from fastserve.policies.concur import Concur
from fastserve.policies.continuum import Continuum, Turns
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome
from tests.policies.desk import MS, Desk

SHAPE: dict[str, Any] = {"prefix_cache": "on", "device_blocks": 40, "residency": "recompute"}


def desk(policy: str, slots: int = 8, **knobs: Any) -> Desk:
    return Desk(policy, slots, SHAPE, **knobs)


def names(jobs: list[Job]) -> str:
    return " ".join(job.program for job in jobs)


def held(there: Desk) -> str:
    return names([job for job in there.policy.jobs if job.held_back])


def turn(there: Desk, program: str, tokens: int, ms: float = 1, calls: str = "") -> None:
    """One turn of this program alone, whose answer calls this tool."""
    job = there.come(tokens, program=program)
    plan = there.scheduler.plan(there.now)
    assert plan is not None and list(plan.members) == [job]
    there.now += round(ms * MS)
    there.scheduler.commit(plan, Outcome(1, round(ms * MS), ended=(job,), calls={job: calls}), there.now)


# -- continuum ---------------------------------------------------------------------------------------------------------


def test_continuum_pins_for_two_seconds() -> None:
    there = desk("continuum")
    turn(there, "a", 600)
    blocker = there.come(1, program="z")
    there.come(100, program="b")
    there.run(1)
    assert names(there.run(1)) == "z" and held(there) == "b"
    assert there.policy.explain(next(job for job in there.policy.jobs if job.program == "b")).startswith(
        "its program's 100 tokens do not fit beside the 604 of 2 programs at work"
    )
    there.run(1990)
    assert held(there) == "b"
    there.run(10)
    assert held(there) == "" and blocker.running


def test_continuum_a_turn_that_comes_while_its_pin_holds_goes_first() -> None:
    there = desk("continuum", slots=1)
    turn(there, "a", 300)
    turn(there, "b", 300)
    there.rest(1999.5)
    c, b = there.come(10, program="c"), there.come(310, program="b")
    a = there.come(310, program="a")  # its pin has ended, though its program is the oldest
    assert there.run(1, b) == [b]
    assert there.run(1, a) == [a] and there.run(1) == [c]


@pytest.mark.parametrize(("gap", "pins"), [(1500, True), (2500, False)])
def test_continuum_does_not_pin_for_a_tool_that_takes_longer(gap: int, pins: bool) -> None:
    there = desk("continuum")
    for _ in range(3):
        turn(there, "a", 10, calls="bash")
        there.rest(gap)
    turn(there, "a", 10, calls="bash")
    turn(there, "b", 10, calls="new")
    assert list(there.policy.until) == (["a", "b"] if pins else ["b"])  # type: ignore[attr-defined]


def test_continuum_with_nothing_running_the_latest_pins_go() -> None:
    there = desk("continuum")
    turn(there, "a", 300)
    turn(there, "b", 300)
    c = there.come(320, program="c")
    assert there.run(1) == [c] and list(there.policy.until) == ["a"]  # type: ignore[attr-defined]


def test_continuum_the_papers_tau_with_few_samples() -> None:
    """An exponential of mean 1 s: to pin for ln(reload in s); a reload of less than a second is not worth a pin."""
    there = desk("continuum", rule="paper")
    policy = there.policy
    assert isinstance(policy, Continuum)
    turn(there, "a", 600)
    assert policy.until == {}
    policy.waits.append(4_000_000_000)
    policy.turns.add(5)
    assert policy.turns.eta == pytest.approx(1.0), "of programs of one length the turns left are known"
    turn(there, "b", 600)
    assert policy.until["b"] - there.now == pytest.approx(1.526e9, rel=0.001), "ln(4 + 0.6)"


def test_continuum_the_papers_tau_with_many_samples() -> None:
    """101 gaps, 80 of 1 s and 21 of 9 s; a reload of 0.6 s: P(1 s) * 3.6 - 1 is more than 3.6 - 9 and than nothing."""
    there = desk("continuum", rule="paper")
    policy = there.policy
    assert isinstance(policy, Continuum)
    for gap in [1_000_000_000] * 80 + [9_000_000_000] * 21:
        policy.pooled.add(gap)
    turn(there, "a", 600)
    assert policy.until == {}
    policy.waits.append(3_000_000_000)
    policy.turns.add(5)
    turn(there, "b", 600)
    assert policy.until["b"] - there.now == 1_000_000_000


def test_eta_of_lengths_without_memory_is_nothing() -> None:
    turns = Turns()
    assert turns.eta == 0.0
    for length in range(1, 12):  # each length half as often as the one before it
        for _ in range(2 ** (11 - length)):
            turns.add(length)
    assert abs(turns.eta) < 0.2


# -- thunder -----------------------------------------------------------------------------------------------------------


def test_thunder_a_new_program_starts_if_nobody_waits_and_it_fits_with_its_buffer() -> None:
    there = desk("thunder")
    there.come(300, program="a")
    there.come(140, program="b")
    assert held(there) == "", "300 + 100 + 140 + 100 are the pool"
    there.come(1, program="c")
    assert held(there) == "c"


def test_thunder_later_turns_are_never_checked() -> None:
    there = desk("thunder")
    turn(there, "a", 300)
    turn(there, "b", 100)
    a, b = there.come(310, program="a"), there.come(320, program="b")
    assert held(there) == "" and there.run(1) == [a, b]


def tick(there: Desk, ms: float) -> None:
    """So much time passes while one more program is held, whose alarm rings at the tick; then it is gone."""
    job = there.come(1, program="tick", final=True)
    assert job.held_back
    there.run(ms)
    there.scheduler.cancel(job, there.now)


def test_thunder_pauses_idle_programs_smallest_first() -> None:
    there = desk("thunder", buffer=0)
    for name, tokens in (("small", 100), ("middle", 150), ("work", 300)):
        turn(there, name, tokens)
    there.come(420, program="work")  # with 101 and 151: too much for 640
    tick(there, 5000)
    there.come(101, program="small")
    middle = there.come(151, program="middle")
    assert held(there) == "small" and middle in there.run(1), "571 fit"


def test_thunder_marks_all_that_reason_though_one_would_do() -> None:
    there = desk("thunder", buffer=0)
    for name in ("a", "b", "c"):
        turn(there, name, 150)
    jobs = [there.come(tokens, program=name) for name, tokens in (("a", 200), ("b", 210), ("c", 231))]
    there.run(1)
    tick(there, 5000)
    assert held(there) == "", "nothing is cut in the middle of a turn"
    there.run(1, *jobs)
    for name in ("a", "b", "c"):
        there.come(10, program=name)
    assert held(there) == "a b c", "each was paused at the end of its turn"


def test_thunder_resumes_at_the_tick_what_was_paused_before_what_is_new_and_the_smallest_first() -> None:
    there = desk("thunder", buffer=0)
    for name, tokens in (("p", 130), ("q", 120), ("work", 300)):
        turn(there, name, tokens)
    work = there.come(560, program="work")
    tick(there, 5000)  # p and q are paused
    there.come(300, program="p")
    there.come(280, program="q")
    there.come(70, program="new")
    assert held(there) == "p q new", "it would fit, but others wait"
    there.run(1, work)
    assert held(there) == "p q new"
    there.scheduler.end_program("work", there.now)
    assert there.rest(10_000) is not None
    assert held(there) == "new", "280 and 300 of 640; 70 more are too many"


def test_thunder_decay_lets_waiting_programs_in_over_idle_ones() -> None:
    for decay in (False, True):
        there = desk("thunder", buffer=0, decay=decay)
        turn(there, "idle", 400)
        runs = there.come(10, program="runs")
        there.come(300, program="waits")
        there.run(1)
        there.run(4990)
        assert held(there) == "waits"
        there.run(20)
        assert held(there) == ("" if decay else "waits") and runs.running


def test_thunder_lets_in_by_force_after_half_an_hour() -> None:
    there = desk("thunder")
    there.come(300, program="a")
    there.come(500, program="b")
    there.run(1)
    for _ in range(179):
        there.run(10_000)
    assert held(there) == "b"
    there.run(10_001)
    assert held(there) == ""


# -- concur ------------------------------------------------------------------------------------------------------------


def test_concur_opens_by_two_every_period_while_the_pool_is_hardly_used() -> None:
    there = desk("concur")
    for name in "abcdef":
        there.come(20, program=name)
    assert held(there) == "b c d e f"
    assert there.policy.explain(list(there.policy.jobs)[2]) == (
        "the window of 1 programs is full, and its program has 20 tokens; 1 older one waits"
    )
    there.run(5000)
    assert held(there) == "d e f"
    there.run(5000)
    assert held(there) == "f"


def test_concur_halves_when_the_pool_is_used_and_nothing_is_found() -> None:
    there = desk("concur", first=4)
    policy = there.policy
    assert isinstance(policy, Concur)
    jobs = [there.come(100, program=name) for name in "abcd"]
    there.run(1)
    there.run(5000, *jobs[2:])  # 400 of 640 used, hits 0 of 400
    assert policy.open == 2 and [one.name for one in policy.members()] == ["a", "b"], "c and d go, between turns"
    there.come(101, program="c")
    assert held(there) == "c"
    there.run(5000)
    assert policy.open == 2, "between 0.2 and 0.5 it stays"


def test_concur_keeps_the_window_where_the_cache_finds_enough() -> None:
    there = desk("concur", first=2)
    policy = there.policy
    assert isinstance(policy, Concur)
    ids = tuple(range(12))
    turn(there, "a", 200)
    first = there.come(200, program="a", ids=ids)
    there.run(1, first)
    there.come(200, program="a", ids=ids)
    there.come(200, program="b")
    there.run(1)
    there.run(5000)  # 192 of 800 asked for were found
    assert policy.open == 2


@pytest.mark.parametrize(
    ("name", "knobs", "words"),
    [
        ("concur", {"period": 0.0}, "policy concur: period=0: give the seconds between two looks"),
        ("concur", {"first": 0}, "policy concur: first=0 must be at least 1"),
        ("thunder", {"tick": 0.0}, "policy thunder: tick=0: give the seconds between two looks"),
        ("continuum", {"rule": "tau"}, "policy continuum: rule='tau' is none of code, paper"),
    ],
)
def test_settings_that_are_wrong(name: str, knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(name, knobs)


@pytest.mark.parametrize("name", ["continuum", "thunder", "concur", "working-set"])
def test_a_program_that_is_over_is_forgotten(name: str) -> None:
    there = desk(name)
    turn(there, "a", 100)
    assert "a" in there.policy.programs.known  # type: ignore[attr-defined]
    there.scheduler.end_program("a", there.now)
    there.scheduler.end_program("never seen", there.now)
    job = there.come(100, program="b", final=True)
    there.run(1, job)
    assert not there.policy.programs.known and not there.policy.inside  # type: ignore[attr-defined]
