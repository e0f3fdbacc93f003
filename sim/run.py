"""One run: one trace, one policy, one seed. Deterministic bit for bit, no global state."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from fastserve import predictors
from fastserve.hardware import Hardware
from fastserve.metrics.programs import SUMMARY
from fastserve.metrics.records import Recorder
from fastserve.metrics.sessions import measured
from fastserve.metrics.summary import Columns, Summary, summarise, with_not_arrived
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import Job
from fastserve.sched.scheduler import Scheduler
from fastserve.speculation.acceptance import Draws
from fastserve.workload import Trace
from fastserve.workload.content import Content
from fastserve.workload.programs import turns_of
from fastserve.workload.requests import guesses_of, job_maker, jobs_of, longest_of, outputs_of, targets_of
from fastserve.workload.session import Sessions
from sim.evicted import with_evicted
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import Alone, AnsweringMachine, ModelledMachine
from sim.prepared import Prepared
from sim.report.run import Run
from sim.session_inbox import SessionInbox
from sim.settings import Settings
from sim.speculating import SpeculatingMachine
from sim.world import World

Contender = PolicySpec
"""Deprecated name of PolicySpec; removed in the next release."""


def row(spec: PolicySpec, settings: Settings) -> str:
    """The spec's label; a policy that used a predictor says so."""
    return f"{spec.title} ({settings.predictor})" if spec.needs_guess else spec.title


def prepare(spec: PolicySpec, settings: Settings) -> None:
    """Validates before a run. Raises ValueError."""
    guessed = predictors.check(settings.predictor)
    spec.check(guesses="" if guessed else f"{predictors.KNOWN} or your own as module:Class")


def accepted(trace: Trace, hardware: Hardware) -> int:
    """Tokens of the longest request that the machine accepts: what its pool and its model's context leave room for; of
    a machine without bounds what is asked for.
    """
    bounds = [bound for bound in (hardware.memory.device_tokens, hardware.context) if bound is not None]
    return min(bounds) if bounds else longest_of(trace)


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
    inbox = _inbox(trace, settings, seed, predictor, shared)
    link = Link(hardware.link, hardware.memory.block_bytes)
    parts = hardware.latency, link, outputs_of(trace), inbox
    said = None if shared is None else shared.answer, trace.tool
    guesses = settings.guesses
    if guesses is not None:
        draws = Draws(guesses.acceptance, seed)
        machine: ModelledMachine = SpeculatingMachine(*parts, *said, draws, guesses.most, not guesses.fixed)
    elif shared is None and trace.tool is None:
        machine = ModelledMachine(*parts)
    else:
        machine = AnsweringMachine(*parts, *said)
    budget = scheduler.batching.budget if settings.batching == "chunked" else None
    targets = targets_of(trace)
    slo = None if targets is None else lambda id: targets[id].seconds()
    turns = None if trace.program is None else turns_of(trace).__getitem__
    recorder = Recorder(hardware.memory.block_bytes, Alone(hardware.latency, budget).ps, slo, turn=turns)
    about = {"trace": trace.name, "policy": row(spec, settings), "seed": seed}
    world = World(scheduler, machine, link, inbox, recorder, max_backlog=settings.max_backlog, watch=watch, about=about)
    return world, scheduler


def _inbox(
    trace: Trace, settings: Settings, seed: int, predictor: predictors.Predictor | None, shared: Content | None
) -> Inbox:
    """Of a trace of sessions, or of settings that make one of it, one that is fed while the run goes on."""
    if not settings.in_sessions(trace):
        jobs = jobs_of(trace, predictor)
        return Inbox(jobs if shared is None else _named(jobs, shared))
    make = job_maker(trace, predictor)

    def named(row: int, at: int) -> Job:
        job = make(row, at)
        if shared is not None:
            job.ids = shared.prompt(row)
        return job

    sessions = Sessions(trace, settings.coming, seed)
    return SessionInbox(named, sessions, sessions.patience)


def _named(jobs: Iterator[Job], shared: Content) -> Iterator[Job]:
    for job in jobs:
        job.ids = shared.prompt(job.id)
        yield job


@contextmanager
def interruptible(world: World) -> Iterator[None]:
    """Ctrl-C stops the world at its next boundary, where no job is half recorded; a second one stops it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if world.stopped:
            raise KeyboardInterrupt
        world.stopped = True

    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def run_one(
    trace: Trace,
    spec: PolicySpec,
    settings: Settings,
    seed: int,
    *,
    shown: dict[str, Any] | None = None,
    watch: Callable[[int], object] | None = None,
    observe: Callable[[World], None] | None = None,
    prepared: Prepared | None = None,
) -> Run:
    """One run of a trace as it stands (its rate has been set). observe: may attach observers to the world first.
    prepared: what runs of the trace have in common, where that is kept between them.

    Ctrl-C ends the run at the next boundary; what has finished is kept, and the run's settings say "interrupted".
    """
    hardware = settings.hardware()
    prepared = prepared or Prepared()
    shared = prepared.content(trace, settings)
    world, scheduler = build(trace, spec, settings, seed, hardware, watch, shared)
    if observe is not None:
        observe(world)
    own = spec.told(scheduler.policy) | (shown or {})
    collected = gc.isenabled()
    gc.disable()  # departed jobs are free of cycles, and young collections would walk all the live ones
    try:
        with interruptible(world):
            world.run()
    finally:
        if collected:
            gc.enable()
    if world.stopped:
        own["interrupted"] = True
    columns = world.recorder.columns()
    if shared is not None:
        columns = with_evicted(columns, shared)
    summary, table = _measured(world, columns, trace, settings, prepared)
    summary["plans"] = scheduler.plans
    summary["iterations"] = world.recorder.iterations
    summary["tokens_per_decode"] = world.recorder.tokens_per_decode
    summary["scheduling_events"] = scheduler.plans + world.recorder.joins + world.recorder.leaves
    summary["collapsed"] = world.collapsed
    summary["hit_rate_unlimited"] = None if shared is None else _unlimited(shared, trace, columns, summary, settings)
    return Run(spec.name, row(spec, settings), seed, own, columns, summary, table)


def _unlimited(shared: Content, trace: Trace, columns: Columns, summary: Summary, settings: Settings) -> float | None:
    """hit_rate of a cache that forgets nothing: of the trace, or of the requests that hit_rate counts, if fewer."""
    if settings.warmup or np.isnan(columns["first_token"]).any() or len(columns["id"]) < len(trace):
        found, lost = summary["hit_rate"], summary["evicted_share"]
        return None if found is None or lost is None else found + lost
    return shared.hit_rate(trace)


def _measured(
    world: World, columns: Columns, trace: Trace, settings: Settings, prepared: Prepared
) -> tuple[Summary, Columns | None]:
    """The summary, and of sessions the table of programs."""
    horizon = world.recorder.horizon / 1e9
    fed = world.fed
    if fed is None:
        summary = summarise(columns, horizon_s=horizon, warmup_s=settings.warmup)
        return with_not_arrived(summary, len(trace) - len(columns["id"])) | dict.fromkeys(SUMMARY), None
    sessions, alone = fed.sessions, prepared.alone(trace, settings)
    members = sessions.members
    return measured(
        columns, sessions.names, members, sessions.abandoned, horizon_s=horizon, at_once=settings.sessions,
        warmup_s=settings.warmup, after=sessions.repeats,
        alone=[alone.program[rows[0]] for rows in members], alone_turn=alone.turn,
    )  # fmt: skip
