"""Agents in closed loop whose contexts outgrow the pool: who lets all of them in thrashes, the working set does not,
and nobody starves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sim
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace

NS = 10**9
TURNS, UNIT = 8, 16


def agents(programs: int) -> Trace:
    """Each begins with 9,600 tokens of its own; a turn adds 320, generates 32 and takes the tool 3 s."""
    rows: dict[str, list[Any]] = {name: [] for name in ("prompt", "program", "ids", "after", "think")}
    for program in range(programs):
        for turn in range(TURNS):
            tokens = 9600 + 320 * turn
            rows["prompt"].append(tokens)
            rows["program"].append(f"agent {program}")
            rows["ids"].append([program * 10_000 + unit for unit in range(tokens // UNIT)])
            rows["after"].append((program * TURNS + turn - 1,) if turn else ())
            rows["think"].append(3 * NS if turn else 0)
    n = programs * TURNS
    return Trace(
        "agents", "made for tests", np.zeros(n, np.int64), np.array(rows["prompt"]), np.full(n, 32),
        program=rows["program"], hash_ids=rows["ids"], block_size=UNIT, after=rows["after"],
        think=np.array(rows["think"]),
    )  # fmt: skip


TRACE = agents(24)


def run(policy: str, sessions: int, **knobs: Any) -> tuple[float, float, float]:
    """(mean program time, longest wait for a first token, longest hold), s."""
    found = sim.replay(
        TRACE, PolicySpec(policy, knobs), sessions=sessions, prefix_cache="on", prefix_tokens=UNIT, kv_tokens=60_000,
        latency="opt-13b-a100", max_batch=32, processes=1, progress=False,
    )  # fmt: skip
    records = found.runs[0].records
    end, begin = records["end"], records["arrival"]
    names = np.array(TRACE.program)[records["id"]]
    took = [end[names == name].max() - begin[names == name].min() for name in set(names.tolist())]
    return float(np.mean(took)), float(records["ttft"].max()), float(records["held_s"].max())


def test_it_does_not_thrash_where_those_that_let_everybody_in_do() -> None:
    fcfs = run("fcfs", 16)[0]
    assert run("working-set", 16, max_wait=0.0)[0] < 0.5 * fcfs
    for name in ("program-fcfs", "plas", "deepest-first"):
        assert run(name, 16)[0] > 0.9 * fcfs


@pytest.mark.parametrize("sessions", [1, 2, 4, 8])
def test_it_is_no_slower_at_any_load(sessions: int) -> None:
    assert run("working-set", sessions)[0] <= 1.02 * run("fcfs", sessions)[0]


@pytest.mark.parametrize("bound", [20.0, 40.0])
def test_nobody_starves(bound: float) -> None:
    """12 at once of which six fit. A prefill takes 2 s, and room is there when somebody's turn ends."""
    free, kept = run("working-set", 12, max_wait=0.0), run("working-set", 12, max_wait=bound)
    assert free[2] > 1.5 * bound, "without a bound somebody is held for long"
    assert kept[2] <= bound + 5 and kept[1] <= bound + 8
    assert kept[0] < 0.75 * run("fcfs", 12)[0]


def test_a_bound_that_cannot_be_kept_makes_it_first_come_first_served_and_no_worse() -> None:
    """Nobody starves among those that are let in, either: not for a slot, and not for a part of the token budget."""
    fcfs, kept = run("fcfs", 16), run("working-set", 16, max_wait=5.0)
    assert kept[1] <= fcfs[1] + 1
    assert kept[0] <= 1.02 * fcfs[0]
