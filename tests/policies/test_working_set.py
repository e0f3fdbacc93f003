"""working-set: who is at work, for how long an idle context counts, and the bound on being held back.

A prefill takes 1 ms a token and the pool takes 640 tokens: a context that is lost costs the machine c ms, one that is
kept takes c / 640 of it; so, while nothing is known of gaps, an idle context counts for 640 ms, whatever its size.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.policies import make
from fastserve.policies.working_set import WorkingSet
from fastserve.sched.job import Job
from tests.policies.desk import Desk

SHAPE: dict[str, Any] = {"prefix_cache": "on", "device_blocks": 40, "residency": "recompute"}


def desk(slots: int = 8, blocks: int = 40, **knobs: Any) -> Desk:
    return Desk("working-set", slots, SHAPE | {"device_blocks": blocks}, **knobs)


def names(jobs: list[Job]) -> str:
    return " ".join(job.program for job in jobs)


def held(there: Desk) -> str:
    return names([job for job in there.policy.jobs if job.held_back])


def test_the_oldest_programs_that_fit_take_turns_and_the_others_wait_though_slots_are_idle() -> None:
    there = desk()
    a, b, c = (there.come(tokens, program=name) for name, tokens in (("a", 300), ("b", 250), ("c", 200)))
    small = there.come(10, program="small")
    assert names(there.run(1)) == "a b" and held(there) == "c small", "nobody overtakes who is held"
    assert there.policy.explain(a) == "its program began at 0.000 s"
    assert there.policy.explain(c) == "its program's 200 tokens do not fit beside the 552 of 2 programs at work"
    assert there.policy.explain(small).endswith(" 2 programs at work; 1 older one waits")
    there.run(1, a)  # a is idle, and its context counts
    assert names(there.run(1)) == "b" and held(there) == "c small"
    assert c.held == 3_000_000
    assert b.running


def test_a_program_that_is_over_makes_room_at_once() -> None:
    for end in ("said", "told"):
        there = desk()
        a = there.come(600, program="a", final=end == "said")
        there.come(100, program="b")
        assert names(there.run(1)) == "a"
        there.run(1, a)
        if end == "told":
            assert held(there) == "b"
            there.scheduler.end_program("a", there.now)
        assert names(there.run(1)) == "b"


def test_an_idle_context_counts_as_long_as_computing_it_again_costs_the_pool() -> None:
    there = desk()
    a = there.come(600, program="a")
    there.run(10, a)
    there.come(100, program="b")
    assert there.rest(10_000) == pytest.approx(650, abs=1)
    assert names(there.run(1)) == "b"


@pytest.mark.parametrize(("store", "counts"), [(0, 640), (352, 340), (704, 40), (7040, 40)])
def test_what_the_host_keeps_costs_only_to_load(store: int, counts: float) -> None:
    """A load takes 1/16 of a prefill, and 600 + 100 tokens may come back: half of them are on a host of 352."""
    there = Desk("working-set", 8, SHAPE | {"host_prefix_tokens": store})
    a = there.come(600, program="a")
    there.run(10, a)
    there.come(100, program="b")
    assert there.scheduler.plan(there.now) is None
    assert there.scheduler.opens_at() / 1e6 == pytest.approx(10 + counts, rel=0.02)


def gaps_of(there: Desk, ms: float, turns: int = 30) -> None:
    """A program of short turns comes back after so many ms each time, and then is over."""
    for turn in range(turns):
        job = there.come(1, program="steady", final=turn == turns - 1)
        assert there.run(1, job) == [job]
        there.rest(ms)


def test_with_host_memory_for_prefixes_an_idle_context_counts_as_long_as_loading_it_costs_the_pool() -> None:
    """A load takes a sixteenth of the prefill: 40 ms instead of 640."""
    there = Desk("working-set", 8, SHAPE | {"host_prefix_tokens": 6400})
    a = there.come(400, program="a")
    there.come(300, program="b")
    assert names(there.run(1)) == "a"
    there.run(1, a)
    assert there.rest(1000) == pytest.approx(2 + 40, abs=2)
    assert names(there.run(1)) == "b"


def test_after_long_gaps_an_idle_context_does_not_count() -> None:
    """Gaps of 5 s are not waited for: the pool would lose more than the machine saves."""
    there = desk()
    gaps_of(there, 5000)
    a = there.come(600, program="a")
    there.run(10, a)
    there.come(100, program="b")
    assert there.rest(10_000) is not None
    assert names(there.run(1)) == "b"
    assert there.now < 31 * 5_100 * 1_000_000


def test_after_short_gaps_it_counts_until_they_have_passed() -> None:
    """All gaps were 200 ms: up to there it is kept, and not a moment longer than the blind rule says."""
    there = desk()
    gaps_of(there, 200)
    a = there.come(600, program="a")
    there.run(10, a)
    since = there.now / 1e6
    there.come(100, program="b")
    at = there.rest(10_000)
    assert at is not None and 200 <= at - since <= 641


def test_a_fixed_time_instead() -> None:
    there = desk(ttl=2.0)
    a = there.come(600, program="a")
    there.run(10, a)
    there.come(100, program="b")
    assert there.rest(10_000) == pytest.approx(2010, abs=1)


def test_who_comes_back_goes_on_though_others_have_waited_for_longer() -> None:
    there = desk()
    a = there.come(600, program="a")
    there.run(10, a)
    there.come(100, program="b")
    again = there.come(620, program="a")
    assert there.run(1) == [again] and held(there) == "b"


def test_when_they_outgrow_the_pool_the_youngest_that_does_not_run_waits() -> None:
    there = desk()
    a = there.come(300, program="a")
    c = there.come(200, program="c")
    there.run(1, c)
    b = there.come(100, program="b")
    there.run(1)
    assert held(there) == ""
    there.run(1, a)
    there.come(450, program="a")  # 450 + 200 + 100
    there.come(210, program="c")
    assert held(there) == "c" and b.running, "b is younger, but it runs"


def test_a_program_that_never_says_that_it_is_over_goes_before_a_young_one() -> None:
    there = desk()
    silent = there.come(300, program="silent")
    there.run(1, silent)
    there.rest(1000)
    a = there.come(300, program="a")
    there.run(1, a)
    again = there.come(350, program="a")
    assert there.run(1) == [again] and held(there) == ""
    policy = there.policy
    assert isinstance(policy, WorkingSet)
    assert [one.name for one in policy.members()] == ["a"]


def test_the_last_one_is_never_sent_away_and_a_program_larger_than_the_pool_comes_alone() -> None:
    there = desk()
    a = there.come(600, program="a")
    there.run(1, a)
    again = there.come(639, program="a")
    assert there.run(1) == [again]


def test_branches_share_their_prefix() -> None:
    """Three branches of 330 tokens with 320 in common take 350: the pool takes them and 250 more, but not 300."""
    there = desk()
    ids = tuple(range(1, 21))
    there.come(320, program="p", ids=ids)
    there.run(1)
    first = next(iter(there.policy.jobs))
    there.run(1, first)
    branches = [there.come(330, program="p", ids=ids) for _ in range(3)]
    fits = there.come(250, program="fits")
    there.come(300, program="more")
    assert there.run(1) == [*branches, fits] and held(there) == "more"


def test_a_job_without_a_program_is_one_of_its_own_and_leaves_nothing_behind() -> None:
    there = desk()
    a, b = there.come(400), there.come(400)
    assert there.run(1) == [a] and b.held_back
    there.run(1, a)
    assert there.run(1) == [b]


def test_what_is_small_beside_the_pool_is_never_held_and_does_not_count_when_it_is_idle() -> None:
    """5 of 640 tokens are small, 6 are not; it runs beside a context that is kept, of which the deepest tokens go."""
    there = desk()
    turn = there.come(600, program="kept")
    there.run(1, turn)
    there.come(100, program="held")
    chat, more = there.come(5, program="chat"), there.come(6, program="more")
    assert there.run(1) == [chat] and held(there) == "held more"
    there.run(1, chat)
    policy = there.policy
    assert isinstance(policy, WorkingSet)
    assert [one.name for one in policy.members()] == ["kept"]
    assert more.held_back and not there.come(4).held_back


def test_with_room_for_all_nobody_is_held() -> None:
    there = Desk("working-set", 2)
    jobs = [there.come(900, program=f"p{i}") for i in range(20)]
    assert not any(job.held_back for job in jobs)


def late(bound: float) -> tuple[Desk, float]:
    """a works on and on; b has waited since 0. Returns when b came in, in ms."""
    there = desk(max_wait=bound)
    a = there.come(400, program="a")
    there.come(300, program="b")
    while held(there) == "b":
        there.run(100, a)
        there.rest(50)
        a = there.come(400, program="a")
        if there.now > 20_000 * 1_000_000:
            break
    return there, there.now / 1e6


def test_nobody_is_held_for_longer_than_the_bound() -> None:
    """Its prefill takes 300 ms: it comes in 300 ms before the bound, in the place of a, between two turns of that."""
    there, at = late(3.0)
    assert 2650 <= at <= 2850
    assert held(there) == "a"
    assert names(there.run(1)) == "b"


def test_without_a_bound_it_starves() -> None:
    assert late(0.0)[1] > 20_000


def test_those_that_are_late_together_come_in_by_deadline_each_after_the_prefills_before_it() -> None:
    """b, c and d take 100 ms each: b comes in when d would be late, 300 ms before the bound of 1 s."""
    there = desk(max_wait=1.0)
    a = there.come(600, program="a")
    there.run(10, a)
    there.come(100, program="b")
    there.come(100, program="c")
    there.come(100, program="d")
    policy = there.policy
    again = there.come(600, program="a")
    there.run(600)
    assert held(there) == "b c d"
    there.run(100, again)
    assert there.now == 710_000_000 and held(there) == ""
    b, c, d = policy.jobs
    assert policy.rank(b)[0] < policy.rank(c)[0] == policy.rank(d)[0], "it goes first; then there is room"


def test_a_bound_that_is_wrong() -> None:
    with pytest.raises(ValueError, match="policy working-set: max_wait=-1 must be a finite number of seconds"):
        make("working-set", {"max_wait": -1})
