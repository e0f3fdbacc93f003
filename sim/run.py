"""One run: one trace, one policy, one seed. Deterministic to the bit, no global state."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fastserve import predictors
from fastserve.hardware import Hardware
from fastserve.metrics.records import Recorder, Slo, slos
from fastserve.metrics.summary import summarise
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import NEVER, Job
from fastserve.sched.scheduler import Scheduler
from fastserve.workload import Trace
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import ModelledMachine
from sim.report.run import Run
from sim.settings import Settings
from sim.world import World

Contender = PolicySpec
"""The old name of PolicySpec, for scripts; it goes with the next release."""


def row(spec: PolicySpec, settings: Settings) -> str:
    """The spec's label; a policy that used a predictor says so."""
    return f"{spec.title} ({settings.predictor})" if spec.needs_guess else spec.title


def prepare(spec: PolicySpec, settings: Settings) -> None:
    """Raises ValueError for what can be known to be wrong before a run."""
    guessed = predictors.make(settings.predictor) is not None
    spec.check(guesses="" if guessed else "oracle, lognormal:SIGMA or constant:TOKENS")


def jobs_of(trace: Trace, predictor: predictors.Predictor | None, outputs: list[int]) -> Iterator[Job]:
    """The trace's requests, made one at a time. The limit is the trace's own max_tokens, else its largest output."""
    constant = max(outputs, default=0)
    limits = trace.max_tokens.tolist() if trace.max_tokens is not None else None
    priorities = trace.priority.tolist() if trace.priority is not None else None
    ttft = trace.ttft_slo.tolist() if trace.ttft_slo is not None else None
    e2e = trace.e2e_slo.tolist() if trace.e2e_slo is not None else None
    arrivals, prompts = trace.arrival.tolist(), trace.prompt.tolist()
    for i, (arrival, prompt) in enumerate(zip(arrivals, prompts, strict=True)):
        objective = (e2e[i] if e2e else 0) or (ttft[i] if ttft else 0)
        job = Job(
            i,
            arrival,
            prompt,
            (limits[i] if limits else 0) or constant,
            trace.client[i] if trace.client else "",
            trace.program[i] if trace.program else "",
            priorities[i] if priorities else 0,
            arrival + objective if objective else NEVER,
        )
        if predictor is not None:
            job.guess = predictor.predict(job, outputs[i])
        yield job


def outputs_of(trace: Trace) -> list[int]:
    """The truth, by job id: what a request generates is bounded by its own max_tokens."""
    outputs: list[int] = trace.output.tolist()
    if trace.max_tokens is not None:
        outputs = [min(o, m) if m else o for o, m in zip(outputs, trace.max_tokens.tolist(), strict=True)]
    return outputs


def build(
    trace: Trace,
    spec: PolicySpec,
    settings: Settings,
    seed: int,
    hardware: Hardware,
    watch: Callable[[int], object] | None = None,
) -> tuple[World, Scheduler]:
    """A world that is ready to run."""
    policy = spec.fresh()
    scheduler = settings.scheduler(policy, hardware, int(trace.prompt.max()))
    predictor = predictors.make(settings.predictor, seed) if "guess" in policy.needs else None
    outputs = outputs_of(trace)
    inbox = Inbox(jobs_of(trace, predictor, outputs))
    link = Link(hardware.link, hardware.memory.block_bytes)
    machine = ModelledMachine(hardware.latency, link, outputs, inbox)
    budget = scheduler.batching.budget if settings.batching == "chunked" else None
    latency = hardware.latency

    def alone(prompt: int, output: int) -> float:
        return latency.alone_ps(prompt, output, budget) / 1e12

    recorder = Recorder(hardware.memory.block_bytes, alone, _slo_of(trace))
    world = World(scheduler, machine, link, inbox, recorder, max_backlog=settings.max_backlog, watch=watch)
    return world, scheduler


def _slo_of(trace: Trace) -> Callable[[int], Slo] | None:
    columns = (trace.ttft_slo, trace.tpot_slo, trace.e2e_slo)
    if all(column is None for column in columns):
        return None
    lists = [None if column is None else column.tolist() for column in columns]
    return lambda id: slos(*[0 if values is None else values[id] for values in lists])


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
) -> Run:
    """One run of a trace as it stands (its rate has been set). observe: may attach observers to the world first.

    Ctrl-C ends the run at the next boundary; what has finished is kept, and the run's settings say "interrupted".
    """
    hardware = settings.hardware()
    world, scheduler = build(trace, spec, settings, seed, hardware, watch)
    if observe is not None:
        observe(world)
    own = dict(spec.knobs) | (shown or {})
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
    horizon = world.recorder.horizon / 1e9
    summary = summarise(columns, horizon_s=horizon, warmup_s=settings.warmup)
    summary["plans"] = scheduler.plans
    summary["iterations"] = world.recorder.iterations
    summary["scheduling_events"] = scheduler.plans + world.recorder.joins + world.recorder.leaves
    summary["collapsed"] = world.collapsed
    return Run(spec.name, row(spec, settings), seed, own, columns, summary)
