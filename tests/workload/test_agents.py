"""Synthetic agents: what a recipe promises, and streams that do not disturb each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastserve.workload import Trace, TraceError, describe
from fastserve.workload import programs as whole
from fastserve.workload.agents import Agents
from fastserve.workload.content import content
from fastserve.workload.programs import groups
from fastserve.workload.seeds import recipe_of, source_of

NS = 10**9


def main_turns(trace: Trace) -> list[list[int]]:
    """Rows of each program without those of its subagents: back from the last."""
    assert trace.after is not None
    found = []
    for rows in groups(trace):
        line = [rows[-1]]
        while trace.after[line[-1]]:
            line.append(trace.after[line[-1]][0])
        found.append(line[::-1])
    return found


def test_a_turn_repeats_all_before_it_and_adds_an_answer_and_more() -> None:
    recipe = Agents(programs=20, forks=0.0, limit=10**6)
    trace = recipe.trace(3)
    assert trace.after is not None and trace.hash_ids is not None and trace.think is not None
    assert [len(rows) for rows in groups(trace)] == [len(rows) for rows in main_turns(trace)]
    for rows in groups(trace):
        for before, row in itertools.pairwise(rows):
            assert trace.after[row] == (before,)
            assert trace.prompt[row] >= trace.prompt[before] + trace.output[before] + 4
            assert trace.hash_ids[row][: len(trace.hash_ids[before])] == trace.hash_ids[before]
            assert len(trace.hash_ids[row]) == trace.prompt[row] // 256
            assert 0.3 * NS <= trace.think[row] <= 3600 * NS
    firsts = [trace.hash_ids[rows[0]] for rows in groups(trace)]
    assert all(ids[:12] == firsts[0][:12] for ids in firsts)  # 3,072 tokens of a system prompt
    assert len({ids[12] for ids in firsts if len(ids) > 12}) == sum(len(ids) > 12 for ids in firsts)


def test_subagents_fork_and_join() -> None:
    trace = Agents(programs=40, forks=0.5, people=0.0, limit=10**6).trace(1)
    assert trace.after is not None and trace.tool is not None and trace.hash_ids is not None
    joins = [row for row, before in enumerate(trace.after) if len(before) > 1]
    assert len(joins) > 50
    for row in joins:
        caller, *last = trace.after[row]
        assert trace.tool[caller] == "subagent" and all(trace.tool[other] == "" for other in last)
        for other in last:
            while trace.after[other] != (caller,):
                (other,) = trace.after[other]
            assert trace.hash_ids[other][:12] == trace.hash_ids[caller][:12]
            assert not set(trace.hash_ids[other][12:]) & set(trace.hash_ids[caller])


def test_shares_laws_and_limits() -> None:
    trace = Agents(programs=300, people=0.25, forks=0.1, turns="fixed:20", tools="a*1|b*4", limit=20_000).trace(0)
    lines = main_turns(trace)
    assert trace.tool is not None and trace.think is not None and trace.after is not None
    assert all(len(line) == 20 for line in lines)
    assert int(trace.prompt.max()) <= 20_000
    inner = [(before, row) for line in lines for before, row in itertools.pairwise(line)]
    called = np.array([trace.tool[before] for before, _ in inner])
    assert (called == "subagent").mean() == pytest.approx(0.1, abs=0.02)
    assert (called == "").mean() == pytest.approx(0.9 * 0.25, abs=0.03)
    gaps = {tool: np.median([trace.think[row] for before, row in inner if trace.tool[before] == tool]) for tool in "ab"}
    assert gaps["b"] / gaps["a"] == pytest.approx(4, rel=0.2)
    starts = trace.arrival[[rows[0] for rows in groups(trace)]] / NS
    assert np.diff(starts).mean() == pytest.approx(60, rel=0.15)


def test_changing_one_law_leaves_the_others() -> None:
    one, two = Agents().trace(5), Agents(output="fixed:7", think="fixed:2", people=0.0).trace(5)
    assert sorted(one.program or ()) == sorted(two.program or ()) and one.after is not None and two.after is not None
    assert sorted(map(len, one.after)) == sorted(map(len, two.after))
    roots = [[trace.prompt[row] for row, before in enumerate(trace.after or ()) if not before] for trace in (one, two)]
    assert roots[0] == roots[1]
    assert one.digest() == Agents().trace(5).digest() != Agents().trace(6).digest()


def test_the_defaults_are_recorded_agents_made_smaller() -> None:
    found = describe(Agents().trace(1))
    assert found.sessions is not None and found.unlimited_hit_rate is not None
    assert 0.92 < found.unlimited_hit_rate < 0.97  # recorded: 0.928
    assert 80 < found.prompt.mean / found.output.mean < 160  # recorded: 148
    assert 15 <= found.sessions.turns.p50 <= 25  # recorded: 21
    assert found.sessions.think is not None and 6 < found.sessions.think.p50 < 11  # recorded: 10 s
    assert found.sessions.forks == found.sessions.joins > 0


@pytest.mark.parametrize(
    "text",
    ["agents:", "agents:programs=3,turns=zipf:1,2,9,think=lognormal:1,1,1,60,forks=0", "agents:block=16,gap=2.5"],
)
def test_a_recipe_in_one_line(text: str) -> None:
    recipe = recipe_of(text)
    assert isinstance(recipe, Agents) and recipe_of(str(recipe)) == recipe
    source = source_of(None, text)
    assert source.recipe == recipe and source.how == "drawn"
    assert source.jobs == len(source.trace(0))
    slow = source.at_rate(0.01).trace(0)
    assert slow.prompt.sum() == source.trace(0).prompt.sum()
    assert whole.starts(slow)[-1] > 1.5 * whole.starts(source.trace(0))[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents:n=5", "has no setting 'n'"),
        ("agents:programs=x", "programs=x is not a whole number"),
        ("agents:programs=0", "programs=0 must be at least 1"),
        ("agents:forks=2", "forks=2.0 is a share"),
        ("agents:limit=3000", "leaves no room"),
        ("agents:turns=normal:3", "unknown recipe 'normal:3'"),
        ("agents:think=lognormal:2", "lacks sigma"),
        ("agents:tools=a*b", "is no NAME"),
        ("agents:gap=0", "gap=0 s must be above 0"),
    ],
)
def test_recipes_that_cannot_be_drawn(text: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        recipe_of(text)
    with pytest.raises(TraceError, match="programs=N"):
        source_of(None, "agents:", num_requests=5)


def test_an_unlimited_cache_finds_all_but_the_ends_of_blocks_and_what_is_new() -> None:
    trace = Agents(programs=10, block=16, forks=0.0, limit=10**6).trace(2)
    found = content(trace, 16)
    assert found is not None and trace.after is not None
    repeated = sum(int(trace.prompt[before[0]] + trace.output[before[0]]) for before in trace.after if before)
    assert found.hit_rate(trace) == pytest.approx((repeated + 9 * 3072) / trace.prompt.sum(), abs=0.01)
