"""What a run is made of and measured by, whether it has one machine or a cluster of them."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import numpy as np

from fastserve import predictors
from fastserve.hardware import Hardware
from fastserve.metrics.programs import SUMMARY
from fastserve.metrics.records import Recorder
from fastserve.metrics.sessions import measured
from fastserve.metrics.summary import Columns, Summary, summarise, with_not_arrived
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import Job
from fastserve.speculation.acceptance import Draws
from fastserve.workload import Trace
from fastserve.workload.content import Content
from fastserve.workload.programs import turns_of
from fastserve.workload.requests import job_maker, jobs_of, longest_of, targets_of
from fastserve.workload.session import Sessions
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import Alone, AnsweringMachine, ModelledMachine
from sim.prepared import Prepared
from sim.session_inbox import SessionInbox
from sim.settings import Settings
from sim.speculating import SpeculatingMachine


def row(spec: PolicySpec, settings: Settings) -> str:
    """The spec's label, behind the router's where there is one; a policy that used a predictor says so."""
    policy = f"{spec.title} ({settings.predictor})" if spec.needs_guess else spec.title
    return f"{settings.router_title} + {policy}" if settings.in_cluster else policy


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


def machine_of(
    trace: Trace,
    settings: Settings,
    seed: int,
    hardware: Hardware,
    link: Link,
    inbox: Inbox,
    outputs: list[int],
    shared: Content | None,
) -> ModelledMachine:
    """outputs: outputs_of(trace)."""
    parts = hardware.latency, link, outputs, inbox
    said = None if shared is None else shared.answer, trace.tool
    guesses = settings.guesses
    if guesses is not None:
        draws = Draws(guesses.acceptance, seed)
        return SpeculatingMachine(*parts, *said, draws, guesses.most, not guesses.fixed)
    return ModelledMachine(*parts) if shared is None and trace.tool is None else AnsweringMachine(*parts, *said)


def recorder_of(trace: Trace, hardware: Hardware, alone: Alone) -> Recorder:
    """alone: of the machine against which slowdowns are told."""
    targets = targets_of(trace)
    slo = None if targets is None else lambda id: targets[id].seconds()
    turns = None if trace.program is None else turns_of(trace).__getitem__
    classes = None if trace.slo_class is None else trace.slo_class.__getitem__
    return Recorder(hardware.memory.block_bytes, alone.ps, slo, turn=turns, slo_class=classes)


def inbox_of(
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


class Stoppable(Protocol):
    """A run, under way in its run()."""

    stopped: bool

    def run(self) -> None: ...


@contextmanager
def interruptible(world: Stoppable) -> Iterator[None]:
    """Ctrl-C stops the run at its next boundary, where no job is half recorded; a second one stops it at once."""

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


def to_its_end(world: Stoppable) -> None:
    """Runs it, or up to a Ctrl-C."""
    collected = gc.isenabled()
    gc.disable()  # departed jobs are free of cycles, and young collections would walk all the live ones
    try:
        with interruptible(world):
            world.run()
    finally:
        if collected:
            gc.enable()


def unlimited(shared: Content, trace: Trace, columns: Columns, summary: Summary, settings: Settings) -> float | None:
    """hit_rate of a cache that forgets nothing: of the trace, or of the requests that hit_rate counts, if fewer. Of
    several replicas it is one cache for all, and fewer requests cannot be told.
    """
    if settings.warmup or np.isnan(columns["first_token"]).any() or len(columns["id"]) < len(trace):
        found, lost = summary["hit_rate"], summary["evicted_share"]
        return None if found is None or lost is None or settings.replicas > 1 else found + lost
    return shared.hit_rate(trace)


def measures(
    inbox: Inbox, horizon: int, columns: Columns, trace: Trace, settings: Settings, prepared: Prepared
) -> tuple[Summary, Columns | None]:
    """The summary, and of sessions the table of programs. inbox: of all arrivals. horizon: ns, the end of the run."""
    if not isinstance(inbox, SessionInbox):
        summary = summarise(columns, horizon_s=horizon / 1e9, warmup_s=settings.warmup, slo=settings.objectives)
        return with_not_arrived(summary, len(trace) - len(columns["id"])) | dict.fromkeys(SUMMARY), None
    sessions, alone = inbox.sessions, prepared.alone(trace, settings)
    members = sessions.members
    return measured(
        columns, sessions.names, members, sessions.abandoned, horizon_s=horizon / 1e9, at_once=settings.sessions,
        warmup_s=settings.warmup, after=sessions.repeats,
        alone=[alone.program[rows[0]] for rows in members], alone_turn=alone.turn,
        slo=settings.objectives,
    )  # fmt: skip
