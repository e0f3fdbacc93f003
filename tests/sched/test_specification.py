"""Macro-steps, single steps and the sorted one-iteration specification agree bit for bit, in all fields."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fastserve.hardware.machine_times import MachineTimes
from fastserve.sched.job import NEVER
from fastserve.sched.plan import Plan
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from sim.world import World
from tests.sched.audit import audit, broken_promises
from tests.sched.closed import Loop
from tests.sched.gates import GATES
from tests.sched.spec import Spec, simulate
from tests.sched.worlds import NAMES, Work, build, chained, hardware, tuned, workload

BATCHINGS = ("chunked", "mixed", "prefill-first", "static")
MEMORIES = ("unlimited", "recompute", "reactive", "proactive")
MS = 1_000_000


def options_for(rng: random.Random, work: Work, slots: int, batching: str, memory: str, guard: bool) -> dict[str, Any]:
    biggest = max(-(-(prompt + output) // 16) for prompt, output in zip(work.prompt, work.output, strict=True))
    pool = biggest + rng.choice([-4, 0, 3, 12, 30])  # sometimes a job can never fit, or outgrows the pool
    return {
        "max_batch": slots,
        "batching": batching,
        "token_budget": {"chunked": max(64, slots + 1), "mixed": rng.choice([64, 512]), "prefill-first": 300}.get(
            batching
        ),
        "static_timeout": 40 * MS,
        "device_blocks": None if memory == "unlimited" else pool,
        "host_blocks": biggest * 2 + rng.randint(-5, 60),
        "residency": "proactive" if memory == "unlimited" else memory,
        "visit": rng.choice([1, 3]) if guard else 0,
        "kv_reserve": rng.choice([0, 2, 9]),
        "prefetch_quota": rng.choice([1, 3, slots]),
        "evict": rng.choice(["policy", "policy", "lru", "reverse"]),
        "whole_context": rng.random() < 0.15,
        "skip_misfits": rng.random() < 0.15,
        "prefill_guard": rng.choice([0.0, 0.0, 0.0, 0.2]),
        "charging": "tokens" if rng.random() < 0.15 else "iteration",
    }


def fields(plan: Plan) -> tuple[Any, ...]:
    def copies(found: Any) -> list[Any]:
        return [(copy.job.id, copy.blocks, copy.out, copy.units) for copy in found]

    chosen = plan.now, list(plan.gone), plan.joined, plan.left, plan.prefill, plan.drop, plan.batch, plan.context
    moved = copies(plan.load), copies(plan.clear), copies(plan.park), copies(plan.prefetch), copies(plan.store)
    shared = dict(plan.found), list(plan.evict), list(plan.forget)
    return *chosen, *moved, *shared, plan.iterations, plan.service, plan.until, plan.hold, plan.members


def audited(world: World, scheduler: Scheduler) -> World:
    """At every boundary: no sum has drifted, no promise is broken, and plan() answers the same when asked twice."""
    ask = scheduler.plan

    def plan(now: int) -> Plan | None:
        audit(scheduler)
        first = ask(now)
        if first is None:
            return None
        second = ask(now)
        assert second is not None and fields(first) == fields(second), "plan() is not pure"
        if scheduler.policy.settled:
            assert not broken_promises(scheduler.ranking)
        assert len(first.members) <= scheduler.slots
        assert len({job.id for job in first.members}) == len(first.members)
        return first

    scheduler.plan = plan  # type: ignore[method-assign]
    return world


def records(world: World) -> dict[str, Any]:
    world.run()
    return world.recorder.columns()


def differences(ours: dict[str, Any], theirs: list[Any], block_bytes: int) -> list[str]:
    """Which fields of which jobs are not those of the specification."""
    found = []

    def second(ns: int | None) -> float:
        return float("nan") if ns is None else ns / 1e9

    for row, job in enumerate(theirs):
        rejected = job.finish == "rejected"
        want = {
            "id": job.id,
            "finish": job.finish,
            "output_tokens": job.generated,
            "first_token": second(job.first_token),
            "end": second(job.arrival if rejected else job.end),
            "queued": second(job.queued),
            "held_s": job.held_before / 1e9,
            "overruled": job.overruled,
            "preempted": second(job.preempted),
            "stalled": second(job.stalled),
            "service": second(job.served),
            "largest_gap": second(job.gap) if job.generated > 1 else float("nan"),
            "preemptions": job.preemptions,
            "recomputed_tokens": max(0, job.computed + (job.found or 0) - job.prompt),
            "cached_tokens": job.found or 0,
            "cached_host_tokens": job.from_host,
            "swapped_out_bytes": job.blocks_out * block_bytes,
            "swapped_in_bytes": job.blocks_in * block_bytes,
        }
        for name, value in want.items():
            got = ours[name][row]
            if got != value and not (value != value and got != got):
                found.append(f"job {job.id} {name}: {got} should be {value}")
    return found


def unalike(policies: list[Policy]) -> list[str]:
    """What these have read of the Scheduler is the same, where they note it."""
    first, *others = [getattr(policy, "noted", []) for policy in policies]
    for i, noted in enumerate(others):
        for at, (want, got) in enumerate(zip(first, noted, strict=False)):
            if want != got:
                return [f"run {i}, note {at}: {got} should be {want}"]
        if len(first) != len(noted):
            return [f"run {i} has noted {len(noted)} times, the specification {len(first)}"]
    return []


def compare(
    name: str,
    seed: int,
    batching: str,
    memory: str,
    guard: bool,
    n: int = 60,
    limitless: bool = False,
    lookahead: int = 0,
) -> dict[str, float]:
    """limitless: the whole context is to be reserved, and no job says how long that may become."""
    rng = random.Random(f"{name} {seed} {batching} {memory} {guard}")
    coarse = rng.random() < 0.5
    slots = rng.choice([1, 2, 6, 16])
    work = workload(rng, n, coarse, slots, cancels=rng.random() < 0.4)
    options = options_for(rng, work, slots, batching, memory, guard)
    if limitless:
        work.limit, options["whole_context"] = NEVER, True
    options["lookahead"] = lookahead
    if rng.random() < (0.5 if name in GATES else 0.2):
        chained(rng, work)
    patience = rng.choice([2, 10_000])
    machine = hardware(coarse)
    case = f"{name} seed {seed} {'coarse' if coarse else 'fine'} {options}"

    world, scheduler = build(tuned(name, coarse, seed), work, machine, options)
    scheduler.holding.patience = patience
    macro = records(world)
    assert not scheduler.live and not scheduler.running, case
    single_world, single = build(tuned(name, coarse, seed), work, machine, options, macro=False)
    single.holding.patience = patience
    single_records = records(audited(single_world, single))
    audited_world, watched = build(tuned(name, coarse, seed), work, machine, options)
    watched.holding.patience = patience
    watched_records = records(audited(audited_world, watched))
    for column, values in macro.items():
        for other in (single_records, watched_records):
            assert np.array_equal(values, other[column], equal_nan=values.dtype.kind == "f"), f"{case}: {column}"
    for ledger in (scheduler.ledger, single.ledger):
        pending = sum(copy.blocks for copy in ledger.copies)
        assert ledger.used == 0 and ledger.cold + ledger.hosted == pending, case

    spec = Spec(tuned(name, coarse, seed), MachineTimes(machine, slots, max(work.prompt)), machine, **options)
    spec.patience = patience
    loop = None if work.after is None else Loop(work)
    spec_jobs = simulate(spec, work.jobs(), work.output, work.cancels, loop=loop)
    wrong = differences(macro, spec_jobs, machine.memory.block_bytes)
    wrong += unalike([each.policy for each in (spec, scheduler, single, watched)])
    assert not wrong, f"{case}:\n" + "\n".join(wrong[:12])
    return {
        "plans": scheduler.plans,
        "iterations": single.plans,
        "preemptions": float(macro["preemptions"].sum()),
        "swapped": float(macro["swapped_out_bytes"].sum()),
        "recomputed": float(macro["recomputed_tokens"].sum()),
    }


@pytest.mark.parametrize("guard", [False, True], ids=["free", "guarded"])
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", NAMES)
def test_macro_steps_are_the_specification(name: str, batching: str, memory: str, guard: bool) -> None:
    compare(name, 0, batching, memory, guard)


@pytest.mark.parametrize("memory", MEMORIES[1:])
@pytest.mark.parametrize("name", ["fcfs", "chaos", "stranger"])
def test_jobs_without_a_limit_grow_though_the_whole_context_is_reserved(name: str, memory: str) -> None:
    for seed in range(3):
        compare(name, seed, "chunked", memory, guard=True, n=30, limitless=True)
