"""What each knob of the multi-level feedback queues does. Quanta are 10, 20, 40, ... ms unless it says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.policies import make
from fastserve.policies.mlfq import MOST_LEVELS, Mlfq
from fastserve.sched.job import Job
from tests.policies.desk import MS, Desk


def mlfq(desk: Desk) -> Mlfq:
    assert isinstance(desk.policy, Mlfq)
    return desk.policy


def level(desk: Desk, job: Job) -> int:
    """As explain() tells it: 1 is the top, the papers' Q1."""
    return int(desk.policy.explain(job)[1:].split(",")[0])


def left(desk: Desk, job: Job) -> str:
    return desk.policy.explain(job).split(", ")[1]


def quanta(**knobs: Any) -> list[float]:
    desk = Desk("mlfq", **knobs)
    desk.come()
    return [quantum / MS for quantum in mlfq(desk).quanta]


def test_levels() -> None:
    to_1280 = [10, 20, 40, 80, 160, 320, 640, 1280]
    assert quanta() == [*to_1280, 2560, 5120], "until a quantum covers the longest output, 500 tokens of 10 ms"
    assert quanta(levels=0) == quanta()
    assert quanta(levels="prefill") == to_1280, "until a quantum covers the longest prefill, 1000 ms"
    assert quanta(q1=6.0) == [6000], "the first covers all"
    assert quanta(ratio=1) == [10] * MOST_LEVELS, "no quantum ever covers it"
    assert quanta(levels=3) == [10, 20, 40]
    assert quanta(q1=0.005, ratio=4, levels=4) == [5, 20, 80, 320]
    assert quanta(ratio=1, levels=3) == [10, 10, 10]
    unbounded = quanta(levels="unbounded")
    assert len(unbounded) == MOST_LEVELS and unbounded[-1] > 1e6 * 86_400_000, "longer than any run"


@pytest.mark.parametrize("prompt", [1, 500])
def test_everybody_joins_the_top(prompt: int) -> None:
    desk = Desk("mlfq")
    assert level(desk, desk.come(prompt)) == 1


@pytest.mark.parametrize(("strict", "after"), [(False, 2), (True, 1)])
def test_a_quantum_used_up_to_the_nanosecond(strict: bool, after: int) -> None:
    """The paper demotes when the charge reaches the quantum, the artifact when it exceeds it."""
    desk = Desk("mlfq", strict=strict)
    job = desk.come()
    desk.run(10 - 1e-6)
    assert level(desk, job) == 1
    desk.run(1e-6)
    assert level(desk, job) == after
    desk.run(1e-6)
    assert level(desk, job) == 2


@pytest.mark.parametrize(("eta", "levels"), [(1, [2, 3, 4, 4]), (2, [3, 4, 4, 4]), (5, [4, 4, 4, 4])])
def test_eta_is_levels_of_a_demotion(eta: int, levels: list[int]) -> None:
    desk = Desk("mlfq", eta=eta, levels=4)
    job = desk.come()
    seen = []
    for _ in levels:
        desk.run(mlfq(desk).quanta[level(desk, job) - 1] / MS)
        seen.append(level(desk, job))
    assert seen == levels


def test_demote_to_fit_finds_the_next_iteration_a_quantum() -> None:
    """150 tokens in chunks of 50: after the first, 100 are owed, which take 100 ms: Q5 has 160. A decode: one down."""
    desk = Desk("mlfq", options={"batching": "chunked", "token_budget": 50}, demote_to="fit")
    job = desk.come(150)
    desk.run(10)
    assert level(desk, job) == 5
    other = Desk("mlfq", demote_to="fit", eta=3)
    decoding = other.come(150)
    other.run(10)
    assert level(other, decoding) == 2


@pytest.mark.parametrize(("carry", "ms"), [(False, "20 ms left"), (True, "5 ms left")])
def test_carry(carry: bool, ms: str) -> None:
    """25 ms in a quantum of 10: are the 15 forgotten?"""
    desk = Desk("mlfq", carry=carry)
    job = desk.come()
    desk.run(25)
    assert level(desk, job) == 2 and left(desk, job) == ms


@pytest.mark.parametrize(("reinsert", "first"), [("back", 0), ("front", 1)])
def test_reinsert(reinsert: str, first: int) -> None:
    desk = Desk("mlfq", reinsert=reinsert)
    jobs = [desk.come()]
    desk.run(10)
    jobs.append(desk.come())
    assert desk.run(10) == [jobs[1]]
    assert level(desk, jobs[0]) == level(desk, jobs[1]) == 2
    assert desk.run(1) == [jobs[first]]


def test_the_last_level_takes_turns() -> None:
    desk = Desk("mlfq", levels=1, alpha=0.0)
    a, b = desk.come(), desk.come()
    assert [desk.run(10)[0] for _ in range(4)] == [a, b, a, b]


def waiting_in_q2(**knobs: Any) -> tuple[Desk, Job]:
    """A job that has used 5 ms of Q2's 20, and waits from 15 ms on."""
    desk = Desk("mlfq", **knobs)
    job = desk.come()
    desk.run(10)
    desk.run(5)
    assert level(desk, job) == 2 and left(desk, job) == "15 ms left"
    return desk, job


@pytest.mark.parametrize(("reset", "ms"), [(True, "10 ms left"), (False, "5 ms left")])
def test_alpha_promotes_who_has_waited(reset: bool, ms: str) -> None:
    desk, job = waiting_in_q2(alpha=0.05, reset=reset)
    desk.others(45)
    assert level(desk, job) == 2
    desk.others(5)
    assert level(desk, job) == 1 and left(desk, job) == ms


def test_alpha_zero_never_promotes() -> None:
    desk, job = waiting_in_q2(alpha=0.0)
    desk.others(2000)
    assert level(desk, job) == 2


def test_who_never_ran_has_waited_since_arrival() -> None:
    desk = Desk("sj-mlfq", alpha=0.05)
    job = desk.come(100)
    assert level(desk, job) == 5
    desk.others(45)
    assert level(desk, job) == 5
    desk.others(5)
    assert level(desk, job) == 1


@pytest.mark.parametrize(("promote_to", "first"), [("back", 1), ("front", 0)])
def test_promote_to(promote_to: str, first: int) -> None:
    """Somebody waits in Q1 when the starving one is promoted."""
    desk, job = waiting_in_q2(alpha=0.05, promote_to=promote_to)
    desk.others(45)
    short, waits = desk.come(), desk.come()
    assert desk.run(5, short) == [short]
    assert level(desk, job) == level(desk, waits) == 1
    assert desk.run(1) == [[job, waits][first]]


def test_check_looks_for_starving_jobs_once_a_period() -> None:
    """check=10: 10 decodes of 10 ms. Starved from 45 ms on, seen at 100 ms."""
    desk, job = waiting_in_q2(alpha=0.03, check=10)
    desk.others(80)
    assert desk.now == 95 * MS and level(desk, job) == 2
    desk.others(5)
    assert level(desk, job) == 1


def test_a_look_comes_too_early_for_who_has_not_starved_yet() -> None:
    desk, job = waiting_in_q2(alpha=0.09, check=10)
    desk.others(180)
    assert desk.now == 195 * MS and level(desk, job) == 2, "at 100 ms it had waited for 85"
    desk.others(5)
    assert level(desk, job) == 1


def test_a_look_takes_who_never_ran_for_starving() -> None:
    """As in the released code: it waits for 5 ms of alpha's 3 s, and is promoted."""
    desk = Desk("sj-mlfq", alpha=3.0, check=10)
    desk.others(95)
    job = desk.come(100)
    assert level(desk, job) == 5
    desk.others(5)
    assert level(desk, job) == 1


def test_departed_jobs_leave_nothing_behind() -> None:
    desk = Desk("mlfq", alpha=0.05, check=3)
    jobs = [desk.come() for _ in range(4)]
    desk.run(10)
    desk.scheduler.cancel(jobs[3], desk.now)
    for job in jobs[1:3]:
        assert desk.run(5, job) == [job]
    desk.run(5, jobs[0])
    policy = mlfq(desk)
    assert not policy.standing and not policy.look and not any(policy.population)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"q1": -1.0}, "q1=-1.0"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"check": -1}, "check=-1"),
        ({"ratio": 0.5}, "ratio=0.5"),
        ({"eta": 0}, "eta=0"),
        ({"levels": 49}, "levels=49"),
        ({"levels": "many"}, "levels='many'"),
        ({"demote_to": "down"}, "demote_to='down' is none of eta, fit"),
        ({"reinsert": "middle"}, "reinsert='middle' is none of back, front"),
        ({"promote_to": "top"}, "promote_to='top' is none of back, front"),
        ({"eviction": "lru"}, "eviction='lru' is none of enst, priority"),
    ],
)
def test_a_wrong_knob_is_named(knobs: dict[str, Any], words: str) -> None:
    for name in ("mlfq", "sj-mlfq"):
        with pytest.raises(ValueError, match=f"policy {name}: .*{words}"):
            make(name, knobs)


@pytest.mark.parametrize(("others_ms", "promoted_ms"), [(45, 100), (80, 200)])
def test_a_look_counts_the_wait_since_the_last_run(others_ms: int, promoted_ms: int) -> None:
    """It runs for 2 ms before a look at 100 and waits again: from 62, starved at 92, or from 97, starved at 127."""
    desk, job = waiting_in_q2(alpha=0.03, check=10)
    desk.others(others_ms)
    assert desk.run(2) == [job]
    while level(desk, job) == 2:
        desk.run(1, desk.come())
    assert desk.now == promoted_ms * MS


def test_quanta_may_count_tokens() -> None:
    """Its prefill of 7 ms is charged as it is, and each token 10 ms, however long it took and how many came at once."""
    desk = Desk("mlfq", quanta="tokens", options={"lookahead": 9}, carry=True)
    job = desk.come(7)
    desk.run(7)
    assert (level(desk, job), left(desk, job)) == (1, "3 ms left"), "the first token is part of the prefill"
    desk.run(400)
    assert (level(desk, job), left(desk, job)) == (2, "13 ms left"), "one token in 400 ms: 7 ms beyond the first level"
    desk.run(1, extra=[(job, 4)])
    assert (level(desk, job), left(desk, job)) == (3, "3 ms left"), "five tokens in 1 ms: 37 ms beyond the second"


def test_quanta_of_tokens_are_of_time_until_the_first_one() -> None:
    desk = Desk("mlfq", quanta="tokens", options={"batching": "chunked", "token_budget": 50})
    job = desk.come(150)
    desk.run(9)
    assert (level(desk, job), left(desk, job)) == (1, "1 ms left")
    desk.run(11)
    assert level(desk, job) == 2, "in the middle of its prefill"


def test_a_promotion_of_who_is_charged_by_the_token() -> None:
    desk = Desk("mlfq", quanta="tokens", reset=False, alpha=0.04)
    job = desk.come()
    for _ in range(3):
        desk.run(10)
    at = level(desk, job)
    assert at > 1
    desk.others(40)
    assert level(desk, job) == 1
