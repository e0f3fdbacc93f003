"""Each router's idea, by hand on three or four views."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from fastserve.routers import Replica, RouterFacts, make
from tests.routers.desk import UNIT, ids, job, letters, name_of, routed, router, view, views


def test_round_robin_goes_in_turn_and_ignores_weights() -> None:
    assert letters(router("round-robin"), views("weight", [1.0, 5.0, 1.0]), 7) == "abcabca"


def test_round_robin_is_fair_where_two_models_are_on_different_replicas() -> None:
    """A pointer that wraps around would stay at a and c."""
    turns = router("round-robin", 4)
    first, second = [view(0), view(1)], [view(2), view(3)]
    assert [letters(turns, offered, 1) for offered in (first, second) * 3] == ["a", "c", "b", "d", "a", "c"]


def test_a_new_replica_gets_its_turn_at_once_and_no_more_than_that() -> None:
    turns = router("round-robin")
    assert letters(turns, [view(0), view(1)], 3) == "aba"
    assert letters(turns, [view(0), view(1), view(2)], 4) == "cbac"


def test_random_goes_by_weight() -> None:
    found = Counter(letters(router("random"), views("weight", [1.0, 3.0]), 4000))
    assert 900 < found["a"] < 1100


def test_weighted_spreads_the_heavy_one() -> None:
    """The example of nginx's documentation of smooth weighted round robin."""
    assert letters(router("weighted"), views("weight", [5.0, 1.0, 1.0]), 14) == "aabacaa" * 2


def test_weighted_follows_a_weight_that_changes() -> None:
    weighted = router("weighted")
    letters(weighted, views("weight", [5.0, 1.0]), 6)
    assert Counter(letters(weighted, views("weight", [1.0, 5.0]), 60)) == {"a": 10, "b": 50}


def test_power_of_two_never_takes_the_most_loaded_and_spreads_over_the_rest() -> None:
    """Of three, the most loaded loses against any other; the least wins 2 of 3 pairs, the middle one 1."""
    found = Counter(letters(router("power-of-two"), views("outstanding", [1, 2, 3]), 3000))
    assert found["c"] == 0
    assert 1900 < found["a"] < 2100


def test_power_of_two_counts_weights_and_the_load_that_it_is_told_to() -> None:
    assert set(letters(router("power-of-two"), [view(0, outstanding=9, weight=10.0), view(1, outstanding=1)], 9)) == {
        "a"
    }
    jobs = router("power-of-two", load="jobs")
    assert set(letters(jobs, [view(0, outstanding=9), view(1, waiting=1, running=2)], 9)) == {"a"}


def test_power_of_two_with_all_choices_is_the_least_loaded() -> None:
    assert set(letters(router("power-of-two", choices=9), views("outstanding", [4, 1, 3]), 20)) == {"b"}


def test_least_connections() -> None:
    assert letters(router("least-connections"), views("outstanding", [3, 1, 2]), 2) == "bb"


def test_least_connections_over_weight_with_ties_in_turn() -> None:
    offered = [view(0, outstanding=4, weight=2.0), view(1, outstanding=2), view(2, outstanding=3)]
    assert letters(router("least-connections"), offered, 4) == "abab"


def test_least_connections_sees_its_own_requests_at_once() -> None:
    """However old the view: the sender counts."""
    offered = views("outstanding", [1, 0, 1], age=10**9, running=0)
    assert letters(router("least-connections"), offered, 1) == "b"


def test_least_tokens_counts_work_and_not_requests() -> None:
    """One long prompt is more than five short answers."""
    offered = [view(0, outstanding=1, queued_tokens=8000), view(1, outstanding=5, expected_tokens=500)]
    assert letters(router("least-tokens"), offered, 1) == "b"
    assert letters(router("least-connections"), offered, 1) == "a"


def test_least_tokens_by_what_a_token_counts() -> None:
    offered = [view(0, queued_tokens=900), view(1, expected_tokens=500)]
    assert letters(router("least-tokens"), offered, 1) == "b"
    assert letters(router("least-tokens", decode=2.0), offered, 1) == "a"
    assert (
        letters(router("least-tokens"), [view(0, queued_tokens=900, weight=2.0), view(1, queued_tokens=500)], 1) == "a"
    )


def test_least_tokens_adds_what_was_sent_since_an_old_view() -> None:
    """a was idle 1 s ago; without what was sent since, all of a second go there."""
    offered = views("queued_tokens", [0, 250, 250], age=10**9)
    assert letters(router("least-tokens"), offered, 7) == "aaabcab"
    assert letters(router("least-tokens", add_sent=False), offered, 7) == "aaaaaaa"


def test_what_is_in_the_view_is_not_added_again() -> None:
    tokens = router("least-tokens")
    assert routed(tokens, job(0, 100, guess=50), [view(0), view(1, queued_tokens=10)], now=1000) == 0
    old = [view(0, age=1000), view(1, queued_tokens=120, age=1000)]  # true at 500: without the 150 of job 0
    assert routed(tokens, job(1, 1, arrival=1500), old, now=1500) == 1
    new = [view(0, age=400), view(1, queued_tokens=120, age=400)]  # true at 1200: they are in it, and done
    assert routed(tokens, job(2, 1, arrival=1600), new, now=1600) == 0


def test_what_was_sent_to_a_lost_replica_is_forgotten() -> None:
    tokens = router("least-tokens")
    offered = views("queued_tokens", [0, 50], age=10**9)
    assert letters(tokens, offered, 2) == "ab"
    tokens.lost(0, 1)
    tokens.came(0, "a", 1.0, 2)
    assert letters(tokens, offered, 1) == "a"


def test_session_keeps_a_program_together_and_spreads_programs() -> None:
    sticky = router("session", 4)
    offered = [view(number) for number in range(4)]
    homes = {program: letters(sticky, offered, 3, program=program) for program in map(str, range(400))}
    assert all(len(set(found)) == 1 for found in homes.values())
    assert all(70 < count < 130 for count in Counter(found[0] for found in homes.values()).values())


def test_session_goes_by_client_where_there_is_no_program_and_by_load_where_there_is_neither() -> None:
    sticky = router("session")
    offered = views("outstanding", [5, 0, 5])
    assert len(set(letters(sticky, offered, 9, client="ann"))) == 1
    assert set(letters(sticky, offered, 9, client="default")) == {"b"}  # all the nameless are not one session
    assert {letters(sticky, offered, 1, client=str(number)) for number in range(30)} == {"a", "b", "c"}
    assert letters(sticky, offered, 1, client="ann", program="p") == letters(
        sticky, offered, 1, client="bob", program="p"
    )


def test_session_moves_only_the_programs_of_a_replica_that_goes_and_they_come_home() -> None:
    sticky = router("session", 4)
    every, without = [view(number) for number in range(4)], [view(number) for number in (0, 1, 3)]
    programs = [str(number) for number in range(300)]
    homes = {program: letters(sticky, every, 1, program=program) for program in programs}
    sticky.lost(2, 0)
    away = {program: letters(sticky, without, 1, program=program) for program in programs}
    assert {program for program in programs if away[program] != homes[program]} == {
        program for program in programs if homes[program] == "c"
    }
    assert len({away[program] for program in programs if homes[program] == "c"}) == 3  # over all that are left
    sticky.came(2, "c", 1.0, 1)
    assert {program: letters(sticky, every, 1, program=program) for program in programs} == homes


def test_session_takes_few_programs_to_a_new_replica() -> None:
    sticky = router("session", 4)
    programs = [str(number) for number in range(1000)]
    homes = {program: letters(sticky, [view(0), view(1), view(2)], 1, program=program) for program in programs}
    more = {program: letters(sticky, [view(number) for number in range(4)], 1, program=program) for program in programs}
    moved = {program for program in programs if more[program] != homes[program]}
    assert {more[program] for program in moved} == {"d"}
    assert 200 < len(moved) < 300  # a fourth


def test_session_by_weight() -> None:
    sticky = router("session")
    offered = views("weight", [1.0, 3.0])
    found = Counter(letters(sticky, offered, 1, program=str(number)) for number in range(2000))
    assert 430 < found["a"] < 570


def test_session_leaves_an_overloaded_replica_where_it_has_a_bound() -> None:
    home = letters(router("session"), [view(0), view(1), view(2)], 1, program="p")
    crowded = views("outstanding", [9 if name_of(number) == home else 1 for number in range(3)])
    assert letters(router("session"), crowded, 1, program="p") == home
    bounded = router("session", bound=1.25)
    assert letters(bounded, crowded, 1, program="p") != home
    assert letters(bounded, views("outstanding", [1, 1, 1]), 1, program="p") == home
    assert "overloaded" not in bounded.explain(job(0))


def test_prefix_goes_where_the_beginning_of_the_prompt_is() -> None:
    prefix = router("prefix")
    offered = [view(number) for number in range(3)]
    first = routed(prefix, job(0, 640, ids=ids("a" * 10, 10)), offered, now=1)
    other = routed(prefix, job(1, 640, ids=ids("b" * 10, 10)), offered, now=2)
    assert other != first
    longer = job(2, 704, ids=ids("a" * 11, 11), arrival=3)
    assert routed(prefix, longer, offered, now=3) == first
    assert prefix.explain(longer) == "640 of 704 tokens cached"


def test_prefix_weighs_a_hit_against_load() -> None:
    """A hit of 640 tokens is worth 640 tokens of work and no more."""
    for outstanding, goes in ((600, 0), (700, 1)):
        prefix = router("prefix", 2)
        prefix.sent(job(0, 640, ids=ids("a" * 10, 10)), 0, 0)
        offered = [view(0, outstanding_tokens=outstanding), view(1)]
        assert routed(prefix, job(1, 704, ids=ids("a" * 11, 11), arrival=1), offered, now=1) == goes


def test_prefix_weighs_prompts_that_queue() -> None:
    prefix = router("prefix", 2)
    prefix.sent(job(0, 640, ids=ids("a" * 10, 10)), 0, 0)
    offered = [view(0, queued_tokens=700), view(1)]
    assert routed(prefix, job(1, 704, ids=ids("a" * 11, 11), arrival=1), offered, now=1) == 1


def test_prefix_by_preble_exploits_more_than_half_and_else_explores() -> None:
    for units, goes in ((11, 0), (20, 0), (21, 1)):
        prefix = router("prefix", 2, rule="e2", overload=1000.0)
        prefix.sent(job(0, 640, ids=ids("a" * 10, 10)), 0, 0)
        offered = [view(0, outstanding_tokens=5000), view(1)]
        found = routed(prefix, job(1, UNIT * units - 1, ids=ids("a" * units, units), arrival=1), offered, now=1)
        assert found == goes, units


def test_prefix_by_preble_leaves_an_overloaded_holder() -> None:
    for overload, goes in ((20.0, 0), (2.0, 1)):
        prefix = router("prefix", 2, rule="e2", overload=overload)
        prefix.sent(job(0, 640, ids=ids("a" * 10, 10)), 0, 0)
        offered = [view(0, outstanding_tokens=5000), view(1)]
        assert routed(prefix, job(1, 704, ids=ids("a" * 11, 11), arrival=1), offered, now=1) == goes


def test_prefix_forgets_what_a_lost_replica_had() -> None:
    prefix = router("prefix", 2)
    prefix.sent(job(0, 640, ids=ids("a" * 10, 10)), 1, 0)
    again = job(1, 640, ids=ids("a" * 10, 10), arrival=1)
    offered = [view(0), view(1)]
    assert offered[prefix.route(again, offered)].replica == 1
    prefix.lost(1, 2)
    prefix.came(1, "b", 1.0, 3)
    prefix.route(again, offered)
    assert prefix.explain(again) == "0 of 640 tokens cached"


def test_prefix_does_not_remember_more_than_the_pool_takes() -> None:
    """The pool takes ten units: the end of what was used longest ago goes first."""
    prefix = router("prefix", 1)
    offered = [view(0, pool_tokens=10 * UNIT)]

    def hit(content: str, units: int) -> str:
        asked = job(9, UNIT * units + 1, ids=ids(content, units))
        prefix.route(asked, offered)
        return prefix.explain(asked).partition(" ")[0]

    routed(prefix, job(0, 8 * UNIT, ids=ids("a" * 8, 8)), offered)
    routed(prefix, job(1, 5 * UNIT, ids=ids("b" * 5, 5)), offered)
    assert (hit("a" * 8, 8), hit("b" * 5, 5)) == ("320", "320")
    routed(prefix, job(2, 5 * UNIT, ids=ids("a" * 5, 5)), offered)  # used again
    routed(prefix, job(3, 3 * UNIT, ids=ids("c" * 3, 3)), offered)
    assert (hit("a" * 8, 8), hit("b" * 5, 5), hit("c" * 3, 3)) == ("320", "128", "192")


def test_freeness_is_room_for_steps() -> None:
    """b has less room and fewer requests: 2000 / 2 steps are more than 3000 / 6."""
    offered = [view(0, running=6, free_tokens=3000), view(1, running=2, free_tokens=2000)]
    assert letters(router("freeness"), offered, 1) == "b"


def test_freeness_counts_what_waits_and_what_can_be_given_up() -> None:
    waits = [view(0, running=2, free_tokens=3000, queued_tokens=2500), view(1, running=2, free_tokens=2000)]
    assert letters(router("freeness"), waits, 1) == "b"
    idle = [view(0, running=2, free_tokens=0, cached_tokens=3000), view(1, running=2, free_tokens=2000)]
    assert letters(router("freeness"), idle, 1) == "a"


def test_freeness_prefers_who_has_no_request_and_counts_what_was_sent_since() -> None:
    offered = [view(0, free_tokens=100, age=10**9), view(1, running=1, free_tokens=10**6, age=10**9)]
    free = router("freeness", 2)
    assert letters(free, offered, 2) == "ab"
    assert letters(router("freeness", 2, add_sent=False), offered, 2) == "aa"


def test_freeness_without_word_of_the_pool_goes_by_outstanding_tokens() -> None:
    free = router("freeness", 2)
    offered = [view(0, running=1, free_tokens=10**6, outstanding_tokens=9), view(1, running=9, outstanding_tokens=5)]
    assert letters(free, offered, 1) == "b"
    assert free.explain(job(0)) == "5 tokens outstanding; what is free is not known"


@pytest.mark.parametrize(
    ("name", "setting", "value", "says"),
    [
        ("power-of-two", "choices", 0, "choices=0 must be at least 1"),
        (
            "power-of-two",
            "load",
            "requests",
            "load='requests' is none of outstanding, outstanding-tokens, jobs, tokens",
        ),
        ("session", "bound", 0.5, "bound=0.5 must be at least 1, or 0"),
        ("prefix", "rule", "dynamo", "rule='dynamo' is none of cost, e2"),
        ("prefix", "overload", 0.9, "overload=0.9 must be a finite number, and at least 1"),
        ("prefix", "most", 0, "most=0 must be at least 1"),
        ("least-tokens", "decode", -1, "decode=-1 must be a finite number, and at least 0"),
        ("round-robin", "load", "jobs", "router round-robin has no setting 'load'; it has none"),
    ],
)
def test_refused_settings(name: str, setting: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        make(name, {setting: value})


def test_a_router_keeps_the_facts() -> None:
    facts = RouterFacts((Replica("a", 2.0),), 16, 7)
    for name in ("round-robin", "random", "power-of-two"):
        found = make(name)
        found.begin(facts)
        assert found.facts is facts
