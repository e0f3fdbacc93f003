"""One brain, two bodies: the simulator and the engine's loop get the same plans from one script of events."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine.backend import Step
from fastserve.engine.clock import VirtualClock
from fastserve.engine.inbox import Inbox
from fastserve.engine.loop import Loop
from fastserve.hardware import LatencyModel
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Recorder
from fastserve.sched.errors import RefusedError
from fastserve.sched.job import Copy, Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from sim.machine import ModelledMachine
from tests.observers.both import serve
from tests.sched.worlds import NAMES, Work, build, hardware, scheduler_of, tuned, workload

Iteration = tuple[Any, ...]


def moves(plan: Plan) -> tuple[list[Any], ...]:
    def told(copies: Sequence[Copy]) -> list[tuple[int, int, bool]]:
        return [(copy.job.id, copy.blocks, copy.out) for copy in copies]

    return ([job.id for job in plan.left], [job.id for job in plan.joined], [job.id for job in plan.drop],
            told(plan.park), told(plan.load), told(plan.clear), told(plan.prefetch))  # fmt: skip


NOTHING = ([], [], [], [], [], [], [])


class Expanded(Observer):
    """The simulator's stretches as single iterations: (start in ns, changes, chunks, batch, context)."""

    def __init__(self, machine: ModelledMachine, latency: LatencyModel) -> None:
        self.machine = machine
        self.latency = latency
        self.iterations: list[Iteration] = []
        self.longest = 0
        self._start = 0
        self._changes: tuple[list[Any], ...] = NOTHING
        self._chunks: list[tuple[int, int, int]] = []

    def planned(self, plan: Plan, now: int) -> None:
        machine = self.machine
        self._start = plan.now * 1000 + (machine.rest if machine.at == plan.now else 0)
        self._changes = moves(plan)
        self._chunks = [(job.id, job.prefilled, tokens) for job, tokens in plan.prefill]

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        self.longest = max(self.longest, outcome.iterations)
        ps = self._start + outcome.stall * 1000
        for i in range(outcome.iterations):
            chunks = [(id, cached + i * tokens, tokens) for id, cached, tokens in self._chunks]
            context = plan.context + i * plan.batch
            start = plan.now if i == 0 else ps // 1000
            self.iterations.append((start, self._changes if i == 0 else NOTHING, chunks, plan.batch, context))
            ps += self.latency.iteration_ps(plan.batch, context, [(cached, n) for _, cached, n in chunks])


class Recording(ScriptedBackend):
    iterations: list[Iteration]

    def run(self, plan: Plan) -> Step:
        chunks = [(job.id, job.prefilled, tokens) for job, tokens in plan.prefill]
        self.iterations.append((plan.now, moves(plan), chunks, plan.batch, plan.context))
        return super().run(plan)


def live(name: str, work: Work, coarse: bool, options: dict[str, Any]) -> tuple[list[Iteration], Recorder]:
    """The same script through the engine's loop, one iteration at a time."""
    machine = hardware(coarse)
    clock, inbox = VirtualClock(), Inbox()
    backend = Recording(hardware=machine)
    backend.iterations = []
    times = MachineTimes(machine, options["max_batch"], max(work.prompt))
    scheduler = scheduler_of(tuned(name, coarse), times, macro=False, **options)
    recorder = Recorder(machine.memory.block_bytes)
    serve(Loop(scheduler, backend, recorder, clock, inbox), work)
    return backend.iterations, recorder


@pytest.mark.parametrize("batching", ["chunked", "mixed", "prefill-first", "static"])
@pytest.mark.parametrize("residency", ["unlimited", "recompute", "reactive", "proactive"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_plans(name: str, residency: str, batching: str) -> None:
    coarse = len(name + residency + batching) % 2 == 0
    rng = random.Random(f"{name} {residency} {batching}")
    options: dict[str, Any] = {"max_batch": rng.choice([4, 8]), "batching": batching, "visit": rng.choice([0, 2])}
    if residency != "unlimited":
        options |= {"residency": residency, "device_blocks": 60, "host_blocks": 120, "kv_reserve": 4}
    if batching == "static":
        options["static_timeout"] = 50_000_000
    work = workload(rng, 40, coarse, options["max_batch"], cancels=True)
    world, _ = build(tuned(name, coarse), work, hardware(coarse), options)
    expanded = Expanded(world.machine, hardware(coarse).latency)
    world.attach(expanded)
    world.run()
    iterations, recorder = live(name, work, coarse, options)
    for ours, theirs in zip(iterations, expanded.iterations, strict=False):
        assert ours == theirs
    assert len(iterations) == len(expanded.iterations)
    simulated, lived = world.recorder.columns(), recorder.columns()
    for column in ("output_tokens", "preemptions", "jct_from_arrival", "ttft", "service", "stalled", "preempted"):
        assert simulated[column].tolist() == pytest.approx(lived[column].tolist(), abs=1e-15, nan_ok=True), column


@pytest.mark.parametrize(("name", "stretch", "preemptions"), [("fcfs", 10, 0), ("las", 5, 30), ("mlfq", 3, 30)])
def test_the_scripts_have_stretches_and_preemptions(name: str, stretch: int, preemptions: int) -> None:
    """What is compared above is not one iteration a plan anyway, and jobs do move."""
    work = workload(random.Random(3), 60, False, 4, cancels=True)
    options: dict[str, Any] = {"max_batch": 4, "device_blocks": 60, "host_blocks": 120, "visit": 0}
    world, _ = build(tuned(name, False), work, hardware(False), options)
    expanded = Expanded(world.machine, hardware(False).latency)
    world.attach(expanded)
    world.run()
    assert expanded.longest >= stretch
    assert int(world.recorder.columns()["preemptions"].sum()) >= preemptions


def test_a_request_that_can_never_fit_is_refused_alike() -> None:
    options: dict[str, Any] = {"max_batch": 2, "device_blocks": 4, "host_blocks": 0}
    scheduler = scheduler_of(tuned("fcfs", True), MachineTimes(hardware(True), 2, 100), **options)
    job = Job(0, 0, 100)
    with pytest.raises(RefusedError, match="needs 7 KV blocks of 16 tokens, the device has 4"):
        scheduler.check(job)
    with pytest.raises(RefusedError, match="needs 7 KV blocks"):
        scheduler.submit(job, 0)
