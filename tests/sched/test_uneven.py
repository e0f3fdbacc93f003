"""Uneven iterations: the Scheduler and the Recorder agree with the specification bit for bit, in all fields."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fastserve.hardware.machine_times import MachineTimes
from fastserve.sched.job import NEVER
from sim.machine import ModelledMachine
from sim.world import World
from tests.sched.spec import Spec, simulate
from tests.sched.test_specification import BATCHINGS, MEMORIES, audited, differences, options_for, records
from tests.sched.test_specification import compare as compare_even
from tests.sched.uneven import Truth, UnevenMachine
from tests.sched.worlds import NAMES, build, hardware, tuned, workload

LOOKAHEADS = (0, 2, 4)  # of 0, jobs get no token or one


def compare(
    name: str, seed: int, batching: str, memory: str, guard: bool, lookahead: int, n: int = 24, calm: int = NEVER
) -> dict[str, int]:
    """calm: from this turn on a job gets one token a turn, and plans hold for longer where all of them do."""
    rng = random.Random(f"{name} {seed} {batching} {memory} {guard} {lookahead} {calm}")
    coarse = rng.random() < 0.5
    slots = rng.choice([1, 2, 6, 16])
    work = workload(rng, n, coarse, slots, cancels=rng.random() < 0.4)
    options = options_for(rng, work, slots, batching, memory, guard)
    options["lookahead"] = lookahead
    machine = hardware(coarse)
    truth = Truth(rng.randrange(1000), work.output, 1 + lookahead, calm)
    case = f"{name} seed {seed} {'coarse' if coarse else 'fine'} {options}"

    def world(macro: bool) -> tuple[World, Any]:
        def body(*facts: Any) -> ModelledMachine:
            latency, carrier, _, inbox = facts
            return UnevenMachine(latency, carrier, truth, inbox)

        return build(tuned(name, coarse), work, machine, options, macro=macro, body=body)

    run, scheduler = world(macro=True)
    ours = records(audited(run, scheduler))
    assert not scheduler.live and not scheduler.running, case
    assert isinstance(run.machine, UnevenMachine) and run.machine.extras, case
    pending = sum(copy.blocks for copy in scheduler.ledger.copies)
    assert scheduler.ledger.used == 0 and scheduler.ledger.cold + scheduler.ledger.hosted == pending, case
    single = records(world(macro=False)[0])
    for column, values in ours.items():
        assert np.array_equal(values, single[column], equal_nan=values.dtype.kind == "f"), f"{case}: {column}"

    spec = Spec(tuned(name, coarse), MachineTimes(machine, slots, max(work.prompt)), machine, **options)
    theirs = simulate(spec, work.jobs(), work.output, work.cancels, truth.speak)
    wrong = differences(ours, theirs, machine.memory.block_bytes)
    assert not wrong, f"{case}:\n" + "\n".join(wrong[:12])
    return {
        "jobs": len(theirs),
        "uneven": run.machine.extras,
        "stretches": run.machine.stretches,
        "preemptions": int(ours["preemptions"].sum()),
        "cut": sum(job.finish == "truncated" for job in theirs),
        "cancelled": sum(job.finish == "cancelled" for job in theirs),
    }


@pytest.mark.parametrize("guard", [False, True], ids=["free", "guarded"])
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", NAMES)
def test_uneven_iterations_are_the_specification(name: str, batching: str, memory: str, guard: bool) -> None:
    for lookahead in LOOKAHEADS:
        compare(name, 0, batching, memory, guard, lookahead)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("batching", BATCHINGS)
def test_plans_hold_for_longer_between_uneven_iterations(batching: str, memory: str) -> None:
    stretches = 0
    for i, name in enumerate(NAMES):
        stretches += compare(name, 0, batching, memory, i % 2 == 0, LOOKAHEADS[i % 3], calm=i % 4 * 2)["stretches"]
    assert stretches


@pytest.mark.parametrize("memory", MEMORIES[1:])
@pytest.mark.parametrize("name", NAMES)
def test_an_even_body_may_have_a_lookahead(name: str, memory: str) -> None:
    compare_even(name, 1, "chunked", memory, guard=True, n=40, lookahead=3)
