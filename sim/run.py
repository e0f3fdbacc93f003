"""One run: one trace, one policy, one seed. Deterministic bit for bit, no global state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastserve import predictors
from fastserve.hardware import Hardware
from fastserve.policies.spec import PolicySpec
from fastserve.sched.scheduler import Scheduler
from fastserve.workload import Trace
from fastserve.workload.content import Content
from fastserve.workload.requests import guesses_of, outputs_of
from sim.cluster.run import run_cluster
from sim.evicted import with_evicted
from sim.link import Link
from sim.machine import Alone
from sim.parts import accepted, inbox_of, machine_of, measures, recorder_of, row, to_its_end, unlimited
from sim.prepared import Prepared
from sim.report.run import Run
from sim.settings import Settings
from sim.world import World

Contender = PolicySpec
"""Deprecated name of PolicySpec; removed in the next release."""


def build(
    trace: Trace,
    spec: PolicySpec,
    settings: Settings,
    seed: int,
    hardware: Hardware,
    watch: Callable[[int], object] | None = None,
    shared: Content | None = None,
) -> tuple[World, Scheduler]:
    """A World ready to run. shared: what the prompts share, which is cached."""
    if shared is not None:
        settings = settings.with_(prefix_cache="on", prefix_tokens=shared.unit)
    policy = spec.fresh()
    scheduler = settings.scheduler(policy, hardware, int(trace.prompt.max()), accepted(trace, hardware))
    predictor = predictors.make(settings.predictor, seed, guesses_of(trace)) if "guess" in policy.needs else None
    inbox = inbox_of(trace, settings, seed, predictor, shared)
    link = Link(hardware.link, hardware.memory.block_bytes)
    machine = machine_of(trace, settings, seed, hardware, link, inbox, outputs_of(trace), shared)
    budget = scheduler.batching.budget if settings.batching == "chunked" else None
    recorder = recorder_of(trace, hardware, Alone(hardware.latency, budget))
    about = {"trace": trace.name, "policy": row(spec, settings), "seed": seed}
    world = World(scheduler, machine, link, inbox, recorder, max_backlog=settings.max_backlog, watch=watch, about=about)
    return world, scheduler


def run_one(
    trace: Trace,
    spec: PolicySpec,
    settings: Settings,
    seed: int,
    *,
    shown: dict[str, Any] | None = None,
    watch: Callable[[int], object] | None = None,
    observe: Callable[[Any], None] | None = None,
    prepared: Prepared | None = None,
) -> Run:
    """One run of a trace as it stands (its rate has been set). observe: may attach observers to the World, or the
    Cluster, first.
    prepared: what runs of the trace have in common, where that is kept between them.

    Ctrl-C ends the run at the next boundary; what has finished is kept, and the run's settings say "interrupted".
    """
    if settings.in_cluster:
        return run_cluster(trace, spec, settings, seed, shown=shown, watch=watch, observe=observe, prepared=prepared)
    hardware = settings.hardware()
    prepared = prepared or Prepared()
    shared = prepared.content(trace, settings)
    world, scheduler = build(trace, spec, settings, seed, hardware, watch, shared)
    if observe is not None:
        observe(world)
    own = spec.told(scheduler.policy) | (shown or {})
    to_its_end(world)
    if world.stopped:
        own["interrupted"] = True
    columns = world.recorder.columns()
    if shared is not None:
        columns = with_evicted(columns, shared)
    summary, table = measures(world.inbox, world.recorder.horizon, columns, trace, settings, prepared)
    summary["plans"] = scheduler.plans
    summary["iterations"] = world.recorder.iterations
    summary["tokens_per_decode"] = world.recorder.tokens_per_decode
    summary["scheduling_events"] = scheduler.plans + world.recorder.joins + world.recorder.leaves
    summary["collapsed"] = world.collapsed
    summary["hit_rate_unlimited"] = None if shared is None else unlimited(shared, trace, columns, summary, settings)
    return Run(spec.name, row(spec, settings), seed, own, columns, summary, table)
