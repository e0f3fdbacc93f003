"""A machine that speculates: stretches and single iterations agree with the specification in all fields of all jobs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fastserve.hardware.machine_times import MachineTimes
from fastserve.speculation.acceptance import Acceptance, Draws
from fastserve.speculation.control import Controller
from sim.machine import ModelledMachine
from sim.speculating import SpeculatingMachine
from sim.world import World
from tests.sched.spec import Spec, simulate
from tests.sched.test_specification import BATCHINGS, MEMORIES, audited, differences, options_for, records
from tests.sched.worlds import NAMES, Work, build, hardware, tuned, workload

ACCEPTANCES = (Acceptance(0.7), Acceptance(0.1), Acceptance(0.9, 0.4), Acceptance(0.0))


class Verifier:
    """The same in its simplest form: each iteration asks, each job is looked at, nothing holds for longer."""

    def __init__(self, work: Work, draws: Draws, most: int, controller: Controller | None) -> None:
        self.work = work
        self.draws = draws
        self.most = most
        self.controller = controller
        self.got: dict[int, int] = {}
        self.drafted = [0] * len(work.output)
        self.accepted = [0] * len(work.output)
        self.iterations = 0

    def guess(self, decode: list[Any], context: int) -> int:
        k = self.most if self.controller is None else self.controller.k(len(decode), context)
        total = 0
        for job in decode if k else ():
            left = self.work.output[job.id] - job.generated
            most = min(k, self.work.limit - job.generated - 1)
            if most < 1:
                continue
            drafted = self.draws.drafted(job.id, job.generated, most)
            accepted = min(left, self.draws.accepted(job.id, job.generated, drafted)) if drafted else 0
            if self.controller is not None:
                self.controller.saw(min(drafted, left), accepted)
            self.drafted[job.id] += drafted
            self.accepted[job.id] += accepted
            self.got[job.id] = min(left, 1 + accepted)
            total += drafted
        self.iterations += total > 0
        return total

    def speak(self, id: int, turn: int, tokens: int) -> tuple[int, bool]:
        got = self.got.pop(id, 1)
        return got, tokens + got == self.work.output[id]


def compare(name: str, seed: int, batching: str, memory: str, guard: bool, control: bool) -> dict[str, int]:
    rng = random.Random(f"{name} {seed} {batching} {memory} {guard} {control}")
    coarse = rng.random() < 0.4
    slots = rng.choice([1, 2, 6, 16])
    work = workload(rng, 24, coarse, slots, cancels=rng.random() < 0.4)
    options = options_for(rng, work, slots, batching, memory, guard)
    most = rng.choice([1, 3, 5])
    options["lookahead"] = most
    machine = hardware(coarse)
    acceptance = rng.choice(ACCEPTANCES)
    case = f"{name} seed {seed} {'coarse' if coarse else 'fine'} {most} {acceptance} {options}"

    def world(macro: bool) -> tuple[World, Any]:
        def body(*facts: Any) -> ModelledMachine:
            return SpeculatingMachine(*facts, None, None, Draws(acceptance, seed), most, control)

        return build(tuned(name, coarse), work, machine, options, macro=macro, body=body)

    run, scheduler = world(macro=True)
    ours = records(audited(run, scheduler))
    assert not scheduler.live and not scheduler.running, case
    single, by_one = world(macro=False)
    for column, values in records(single).items():
        assert np.array_equal(values, ours[column], equal_nan=values.dtype.kind == "f"), f"{case}: {column}"

    controller = Controller(machine.latency, most) if control else None
    body = Verifier(work, Draws(acceptance, seed), most, controller)
    times = MachineTimes(machine, slots, max(work.prompt))
    spec = Spec(tuned(name, coarse), times, machine, **options, guess=body.guess)
    theirs = simulate(spec, work.jobs(), work.output, work.cancels, body.speak)
    wrong = differences(ours, theirs, machine.memory.block_bytes)
    told = [*zip(ours["draft_tokens"].tolist(), ours["accepted_tokens"].tolist(), strict=True)]
    if told != [*zip(body.drafted, body.accepted, strict=True)]:
        wrong.append(f"guesses: {told}, not {[*zip(body.drafted, body.accepted, strict=True)]}")
    assert not wrong, f"{case}:\n" + "\n".join(wrong[:12])
    return {
        "verified": body.iterations,
        "accepted": sum(body.accepted),
        "held": scheduler.plans < by_one.plans,
        "preempted": int(ours["preemptions"].sum()),
    }


@pytest.mark.parametrize("control", [False, True], ids=["fixed", "controlled"])
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("name", NAMES)
def test_verified_guesses_are_the_specification(name: str, memory: str, control: bool) -> None:
    at = NAMES.index(name) + MEMORIES.index(memory)
    compare(name, 0, BATCHINGS[at % 4], memory, guard=at % 3 > 0, control=control)


@pytest.mark.parametrize("memory", MEMORIES)
def test_plans_hold_for_longer_while_nothing_is_guessed(memory: str) -> None:
    counts = [compare(name, 1, "chunked", memory, True, True) for name in NAMES]
    assert all(sum([count[what] for count in counts]) for what in counts[0] if what != "preempted")


def test_the_same_tokens_are_right_whatever_the_policy_and_the_number_of_guesses() -> None:
    draws = [Draws(Acceptance(0.6), 5) for _ in range(2)]
    few = [draws[0].accepted(3, at, 2) for at in range(30)]
    many = [draws[1].accepted(3, at, 8) for at in range(30)]
    assert few == [min(2, right) for right in many]
