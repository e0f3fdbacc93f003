"""One run: one trace, one policy, one seed. Deterministic to the bit, no global state."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from fastserve import predictors
from fastserve.hardware import Hardware
from fastserve.metrics.records import Recorder, Slo, slos
from fastserve.metrics.summary import summarise
from fastserve.policies import find, knobs, make
from fastserve.sched.job import NEVER, Job
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from fastserve.workload import Trace
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import Alone, ModelledMachine
from sim.report.document import Run
from sim.settings import Settings
from sim.world import World


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy as a row of the comparison. policy: a name, module:Class, a class. knobs: its constructor's keywords."""

    policy: str | type[Policy]
    knobs: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        return self.policy if isinstance(self.policy, str) else self.policy.__name__

    @property
    def kind(self) -> type[Policy]:
        return find(self.policy) if isinstance(self.policy, str) else self.policy

    def fresh(self) -> Policy:
        """A policy for one run. Raises ValueError for an unknown name or setting."""
        if isinstance(self.policy, str):
            return make(self.policy, self.knobs)
        valid = knobs(self.policy)
        for key in self.knobs:
            if key not in valid:
                raise ValueError(f"{self.name} has no setting {key!r}; it has {', '.join(valid) or 'none'}")
        return self.policy(**self.knobs)

    def row(self, settings: Settings) -> str:
        """Its label; a policy that used a predictor says so."""
        label = self.label or self.name
        return f"{label} ({settings.predictor})" if self.kind.needs else label


def prepare(contender: Contender, settings: Settings) -> None:
    """Raises ValueError for what can be known to be wrong before a run."""
    try:
        policy = contender.fresh()
    except (ValueError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"policy {contender.name} cannot be imported and made: {what}") from error
    unknown = policy.needs - {"guess"}
    if unknown:
        raise ValueError(f"policy {contender.name} needs {', '.join(sorted(unknown))}, which no driver provides")
    if "guess" in policy.needs and predictors.make(settings.predictor) is None:
        raise ValueError(
            f"policy {contender.name} needs a guess of the output length: choose a predictor, "
            f"oracle, lognormal:SIGMA or constant:TOKENS"
        )


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
    contender: Contender,
    settings: Settings,
    seed: int,
    hardware: Hardware,
    watch: Callable[[int], object] | None = None,
) -> tuple[World, Scheduler]:
    """A world that is ready to run."""
    policy = contender.fresh()
    scheduler = settings.scheduler(policy, hardware, int(trace.prompt.max()))
    predictor = predictors.make(settings.predictor, seed) if "guess" in policy.needs else None
    outputs = outputs_of(trace)
    inbox = Inbox(jobs_of(trace, predictor, outputs))
    link = Link(hardware.link, hardware.memory.block_bytes)
    machine = ModelledMachine(hardware.latency, link, outputs, inbox)
    budget = scheduler.batching.budget if settings.batching == "chunked" else None
    recorder = Recorder(hardware.memory.block_bytes, Alone(hardware.latency, budget).ps, _slo_of(trace))
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
    contender: Contender,
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
    world, scheduler = build(trace, contender, settings, seed, hardware, watch)
    if observe is not None:
        observe(world)
    own = dict(contender.knobs) | (shown or {})
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
    return Run(contender.name, contender.row(settings), seed, own, columns, summary)
