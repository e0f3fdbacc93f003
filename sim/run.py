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
from fastserve.metrics.records import Recorder
from fastserve.metrics.summary import summarise
from fastserve.policies import find, knobs, make
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from fastserve.workload import Trace
from fastserve.workload.requests import jobs_of, outputs_of, targets_of
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import Alone, ModelledMachine
from sim.report.run import Run
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
    inbox = Inbox(jobs_of(trace, predictor))
    link = Link(hardware.link, hardware.memory.block_bytes)
    machine = ModelledMachine(hardware.latency, link, outputs_of(trace), inbox)
    budget = scheduler.batching.budget if settings.batching == "chunked" else None
    targets = targets_of(trace)
    slo = None if targets is None else lambda id: targets[id].seconds()
    recorder = Recorder(hardware.memory.block_bytes, Alone(hardware.latency, budget).ps, slo)
    world = World(scheduler, machine, link, inbox, recorder, max_backlog=settings.max_backlog, watch=watch)
    return world, scheduler


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
