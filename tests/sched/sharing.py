"""Programs whose prompts share prefixes, and the comparison of the Scheduler with the specification on them.

    python -m tests.sched.sharing --seeds 1000 --seconds 600

compares as many cases as the time allows, beyond those of the ordinary tests.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastserve.hardware import Link
from fastserve.hardware.machine_times import MachineTimes
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.policy import Policy
from fastserve.sched.sharing import SharedLedger
from sim.machine import AnsweringMachine, ModelledMachine
from tests.sched import worlds
from tests.sched.closed import Loop
from tests.sched.gates import GATES
from tests.sched.spec import Spec, simulate
from tests.sched.test_specification import BATCHINGS, MEMORIES, audited, differences, options_for, records, unalike
from tests.sched.uneven import Truth, UnevenMachine
from tests.sched.worlds import MS, Work, build, chained, hardware, workload

POOLS = (*MEMORIES, "defer")
FAST = Link(10**12, 10**12, 1000, True)
SLOW = Link(10**8, 5 * 10**7, MS, True)
ONE_WAY = Link(10**10, 10**10, MS, False)
UNITS = (16, 32, 64)


class Longest(Policy):
    """Longest cached prefix first; promises nothing."""

    def rank(self, job: Job) -> tuple[bool, int]:
        return not job.running, -job.cached


class Uncached(Policy):
    """Fewest tokens to compute first, as known when it came: settled."""

    settled = True

    def __init__(self) -> None:
        self.owed: dict[Job, int] = {}

    def rank(self, job: Job) -> int:
        return self.owed[job]

    def arrive(self, job: Job) -> None:
        self.owed[job] = job.prompt - job.cached

    def depart(self, job: Job) -> None:
        del self.owed[job]


class UnevenAnswers(UnevenMachine):
    def __init__(self, latency: Any, link: Any, truth: Truth, inbox: Any, answers: list[list[int]]) -> None:
        super().__init__(latency, link, truth, inbox)
        self.answers = answers

    def run(self, plan: Plan) -> Outcome:
        outcome = super().run(plan)
        outcome.answers = {job: self.answers[job.id] for job in outcome.ended}
        return outcome


class Answers(AnsweringMachine):
    def __init__(self, latency: Any, link: Any, outputs: Any, inbox: Any, work: Work) -> None:
        assert work.answers is not None
        super().__init__(latency, link, outputs, inbox, work.answers.__getitem__)
        self.calls = work.calls

    def run(self, plan: Plan) -> Outcome:
        outcome = super().run(plan)
        outcome.calls = {job: self.calls[job.id] for job in outcome.ended if self.calls[job.id]}
        return outcome


OWN = {"longest": Longest, "uncached": Uncached}
NAMES = (*worlds.NAMES, *OWN)


def tuned(name: str, coarse: bool, seed: int = 0) -> Policy:
    return OWN[name]() if name in OWN else worlds.tuned(name, coarse, seed)


def programs(rng: random.Random, work: Work, unit: int, longest: int = 600) -> None:
    """Gives the prompts content: conversations that go on, fork and repeat, behind a few system prompts; some full to
    the last token of a unit, some of which not all is known, some whose answer nobody learns. longest: tokens.
    """
    new = iter(range(10**9))
    systems = [[next(new) for _ in range(rng.randint(1, 12))] for _ in range(rng.choice([1, 3]))]
    work.ids, work.answers = [], []
    for i in range(len(work.prompt)):
        if rng.random() < 0.7:  # longer ones, so that there is something to share
            work.prompt[i] = min(longest, work.prompt[i] + rng.choice([0, 100, 200, 300]))
        if rng.random() < 0.3:
            work.prompt[i] = max(1, work.prompt[i] // unit) * unit
        full = work.prompt[i] // unit
        dice = rng.random()
        base: list[int] = []
        if dice < 0.55 and i:
            parent = rng.randrange(max(0, i - 8), i)
            base = work.ids[parent] + work.answers[parent]
        elif dice < 0.9:
            base = rng.choice(systems)
        keep = min(full, len(base)) if rng.random() < 0.7 else rng.randint(0, min(full, len(base)))
        ids = base[:keep] + [next(new) for _ in range(full - keep)]
        if rng.random() < 0.1:
            ids = ids[: rng.randint(0, len(ids))]
        more = (work.prompt[i] + work.output[i] - 1) // unit - len(ids)
        told = rng.random() < 0.7 and len(ids) == full
        answer = [next(new) for _ in range(more)] if told else []
        if i and rng.random() < 0.15:  # somebody has asked the same, and got the same answer
            twin = rng.randrange(max(0, i - 8), i)
            work.prompt[i], work.output[i] = work.prompt[twin], work.output[twin]
            ids, answer = work.ids[twin], work.answers[twin]
        work.ids.append(ids)
        work.answers.append(answer)


def compare(
    name: str,
    seed: int,
    batching: str,
    memory: str,
    guard: bool,
    n: int = 30,
    unit: int | None = None,
    tier: bool = False,
    closed: bool | None = None,
) -> dict[str, float]:
    """All columns, and the order of the idle units, of macro-steps, single steps and the specification.

    tier: the host remembers units too.
    """
    rng = random.Random(f"sharing {name} {seed} {batching} {memory} {guard}")
    coarse = rng.random() < 0.5
    slots = rng.choice([1, 2, 6, 16])
    work = workload(rng, n, coarse, slots, cancels=rng.random() < 0.4)
    unit = unit or rng.choice(UNITS)
    programs(rng, work, unit)
    options = options_for(rng, work, slots, batching, memory, guard)
    options |= {"prefix_cache": "on", "prefix_tokens": unit, "lookahead": rng.choice([0, 0, 0, 2])}
    machine = hardware(coarse)
    if tier:
        dice = random.Random(f"tier {seed} {name} {batching} {memory} {guard}")
        most = options["device_blocks"] or 100
        options["host_prefix_tokens"] = 16 * dice.choice([most // 4, most, 3 * most, 30 * most]) + dice.randint(0, 20)
        machine = replace(machine, link=dice.choice([machine.link, FAST, FAST, SLOW, ONE_WAY]))
    truth = None
    if rng.random() < 0.2:
        truth = Truth(rng.randrange(1000), work.output, 1 + options["lookahead"], rng.choice([0, 4]))
    if closed or (closed is None and rng.random() < (0.6 if name in GATES else 0.25)):
        chained(rng, work)
    patience = rng.choice([2, 10_000])
    case = f"{name} seed {seed} {'coarse' if coarse else 'fine'} {options}"

    def body(*facts: Any) -> ModelledMachine:
        latency, carrier, outputs, inbox = facts
        assert work.answers is not None
        if truth is not None:
            return UnevenAnswers(latency, carrier, truth, inbox, work.answers)
        return Answers(latency, carrier, outputs, inbox, work)

    ours: dict[str, Any] = {}
    plans = []
    policies: list[Policy] = []
    idle: list[list[int]] = []
    kept: list[list[int]] = []
    for macro, watched in ((True, False), (False, True), (True, True)):
        world, scheduler = build(tuned(name, coarse, seed), work, machine, options, macro=macro, body=body)
        policies.append(scheduler.policy)
        scheduler.holding.patience = patience
        found = records(audited(world, scheduler) if watched else world)
        ledger = scheduler.ledger
        assert isinstance(ledger, SharedLedger) and not scheduler.live and not scheduler.running, case
        pending = sum(copy.blocks for copy in ledger.copies if copy.units is None)
        lefts = {id for copy in ledger.copies if copy.units for id in copy.job.ids[: copy.job.shared]}
        assert ledger.used == 0 and ledger.cold + ledger.hosted == pending + len(lefts) * ledger.size, case
        held = [id for run in ledger.tree.first.values() if run.holders for id in run.ids[run.start : run.end]]
        assert len(held) == len(lefts) and set(held) == lefts, case
        if ledger.tier is not None:
            kept.append(ledger.tier.tree.idle_ids())
        ours = ours or found
        for column, values in ours.items():
            assert np.array_equal(values, found[column], equal_nan=values.dtype.kind == "f"), f"{case}: {column}"
        idle.append(ledger.tree.idle_ids())
        plans.append(scheduler.plans)

    spec = Spec(tuned(name, coarse, seed), MachineTimes(machine, slots, max(work.prompt)), machine, **options)
    spec.patience = patience
    speak = None if truth is None else truth.speak
    calls = work.calls if truth is None else None
    loop = None if work.after is None else Loop(work)
    theirs = simulate(spec, work.jobs(), work.output, work.cancels, speak, work.answers, calls, loop)
    wrong = differences(ours, theirs, machine.memory.block_bytes) + unalike([spec.policy, *policies])
    assert not wrong, f"{case}:\n" + "\n".join(wrong[:12])
    assert idle == [spec.idle] * 3, case
    assert kept == [spec.kept] * 3 or not spec.tier, case
    return {
        "comparisons": len(theirs) * 19 + 3 + bool(spec.tier) * 3 + 3 * len(getattr(spec.policy, "noted", ())),
        "jobs": len(theirs),
        "plans": plans[0],
        "iterations": plans[1],
        "uneven": truth is not None,
        "closed": work.after is not None,
        "held": int((ours["held_s"] > 0).sum()),
        "overruled": int(ours["overruled"].sum()),
        "notes": len(getattr(spec.policy, "noted", ())),
        "cancelled": int((ours["finish"] == "cancelled").sum()),
        "refused": int((ours["finish"] == "rejected").sum()),
        "preemptions": float(ours["preemptions"].sum()),
        "swapped": float(ours["swapped_out_bytes"].sum()),
        "recomputed": float(ours["recomputed_tokens"].sum()),
        "cached": float(ours["cached_tokens"].sum()),
        "loaded": float(ours["cached_host_tokens"].sum()),
        "prompt": float(ours["prompt_tokens"].sum()),
    }


def main(module: str, about: str, compare: Callable[..., Mapping[str, float]]) -> int:
    """The command of a module that compares case by case. compare: of policy, seed, batching, memory, a yes or no."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about.partition("\n")[0])
    parser.add_argument("--first", type=int, default=1, help="first seed (%(default)s; 0 is that of the tests)")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no case after so many")
    parser.add_argument("--policy", action="append", help="only these")
    parser.add_argument("--tier", action="store_true", help="the host remembers units too")
    args = parser.parse_args()
    total: Counter[str] = Counter()
    bad = 0
    began = time.monotonic()
    for seed in range(args.first, args.first + args.seeds):
        for name in args.policy or NAMES:
            for batching in BATCHINGS:
                for memory in POOLS:
                    for either in (False, True):
                        if time.monotonic() - began > args.seconds:
                            break
                        total["cases"] += 1
                        try:
                            total.update(compare(name, seed, batching, memory, either, tier=args.tier))
                        except Exception as error:
                            bad += 1
                            print(
                                f"DIFFERS: {name} {seed} {batching} {memory} {either}: {str(error)[:1500]}", flush=True
                            )
                            if not isinstance(error, AssertionError) or not str(error):
                                traceback.print_exc()
    print({key: int(value) for key, value in total.items()}, f"{bad} cases differ, {time.monotonic() - began:.0f} s")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main("tests.sched.sharing", __doc__, compare))
