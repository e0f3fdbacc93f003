"""Whatever happens to a sender and its replicas, each router answers with an index, and a second one of its kind with
the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.routers import ROUTERS, Replica, ReplicaView, Router, RouterFacts, chosen, make
from fastserve.sched.job import Job

SECOND = 10**9
NUMBERS = st.integers(0, 5)
COUNT = st.integers(0, 50)
TOKENS = st.integers(0, 100_000)


@st.composite
def views(draw: st.DrawFn) -> list[ReplicaView]:
    """Of some of the replicas, in the order of their numbers; some tell their load, some are old."""
    found = []
    for number in sorted(draw(st.sets(NUMBERS, min_size=1))):
        tells = draw(st.booleans())
        found.append(ReplicaView(
            number, f"replica-{number}", draw(st.sampled_from([0.1, 1.0, 3.0])), True, draw(COUNT), draw(TOKENS),
            draw(COUNT), draw(COUNT), draw(COUNT) if tells else None, draw(TOKENS), draw(TOKENS),
            draw(TOKENS) if tells else None, draw(TOKENS) if tells else None, draw(TOKENS),
            draw(st.integers(0, 3 * SECOND)), "load" if tells else "counted",
        ))  # fmt: skip
    return found


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Any, ...]:
    """program, client, prompt, guess and units."""
    name = st.sampled_from(["", "a", "b", "\ud800", "default"])
    units = draw(st.integers(0, 20))
    return draw(name), draw(name), units * 64 + draw(st.integers(1, 63)), draw(st.none() | COUNT), units


STEPS = st.lists(
    st.tuples(st.just("request"), jobs(), views(), st.integers(0, SECOND), st.sampled_from(["ended", "failed", "runs"]))
    | st.tuples(st.sampled_from(["lost", "came"]), NUMBERS, st.none(), st.integers(0, SECOND), st.none()),
    max_size=30,
)


def play(router: Router, steps: Sequence[Any], seed: int) -> list[int]:
    """The indices that it gives. Each is checked."""
    router.begin(RouterFacts(tuple(Replica(f"replica-{number}") for number in range(3)), 64, seed))
    now, found = 0, []
    for id, (what, subject, offered, gap, becomes) in enumerate(steps):
        now += gap
        if what == "came":
            router.came(subject, f"replica-{subject}", 1.0, now)
        elif what == "lost":
            router.lost(subject, now)
        else:
            program, client, prompt, guess, units = subject
            ids = [len(program) * 1000 + unit for unit in range(units)]
            job = Job(id, now, prompt, program=program, client=client, guess=guess, ids=ids)
            index = chosen(router, job, offered)
            found.append(index)
            assert isinstance(router.explain(job), str)
            replica = offered[index].replica
            router.sent(job, replica, now)
            if becomes == "ended":
                router.ended(job, replica, now + 1, 10)
            elif becomes == "failed":
                router.failed(job, replica, now)
    return found


@pytest.mark.parametrize("name", ROUTERS)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 3))
def test_an_index_and_the_same_again(name: str, steps: list[Any], seed: int) -> None:
    assert play(make(name), steps, seed) == play(make(name), steps, seed)


@pytest.mark.parametrize("knobs", [{"rule": "e2"}, {"most": 1}, {"prefill": 0, "decode": 0}])
@settings(max_examples=30, deadline=None)
@given(steps=STEPS)
def test_variants_of_prefix(knobs: dict[str, Any], steps: list[Any]) -> None:
    assert play(make("prefix", knobs), steps, 0) == play(make("prefix", knobs), steps, 0)


@settings(max_examples=60, deadline=None)
@given(paths=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=40), room=st.integers(1, 20))
def test_what_is_remembered_of_prompts_is_whole_beginnings_of_the_latest(
    paths: list[tuple[int, int]], room: int
) -> None:
    """Against a list of all that was sent: as the cache of a replica that gives up the end of the oldest first."""
    from fastserve.routers.sent_prefixes import SentPrefixes

    cached, used = SentPrefixes(10**6), list[tuple[int, int]]()
    for tree, units in paths:
        ids = [tree * 1000 + unit for unit in range(units)]
        cached.note(0, ids, room)
        for unit in reversed(range(min(units, room))):
            used = [one for one in used if one != (tree, unit)] + [(tree, unit)]
        used = used[-room:]
        assert len(cached) == len(used)
        for other in range(4):
            here = next(unit for unit in range(99) if (other, unit) not in used)
            assert cached.found(0, [other * 1000 + unit for unit in range(15)]) == here


def test_the_seed_decides_what_is_left_to_chance() -> None:
    offered = [ReplicaView(number, f"replica-{number}") for number in range(4)]
    steps = [("request", ("", "", 10, None, 0), offered, 1, "runs")] * 50
    for name in ("random", "power-of-two"):
        assert play(make(name), steps, 1) != play(make(name), steps, 2)
