"""One script of events in both drivers: the simulator's world, and the engine's loop on the scripted body."""

from __future__ import annotations

import random
from typing import Any

from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine.clock import VirtualClock
from fastserve.engine.inbox import Inbox
from fastserve.engine.loop import Loop
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Request
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Recorder
from fastserve.sched.observer import Observer
from fastserve.sched.policy import Policy
from tests.sched.worlds import Work, build, hardware, scheduler_of, tuned, workload

SWAPPING: dict[str, Any] = {"max_batch": 4, "residency": "proactive", "device_blocks": 40, "host_blocks": 80,
                            "visit": 0}  # fmt: skip
"""Little memory: prompts above 640 tokens are refused, and KV moves."""


def script(seed: str, requests: int = 60) -> Work:
    """Cancels, and some prompts that can never fit into SWAPPING's pool."""
    work = workload(random.Random(seed), requests, False, 4, cancels=True)
    for id in range(7, requests, 20):
        work.prompt[id] = 700
    return work


def policy_of(policy: str | Policy) -> Policy:
    return tuned(policy, False) if isinstance(policy, str) else policy


def simulated(
    policy: str | Policy, work: Work, options: dict[str, Any], *observers: Observer, macro: bool = False
) -> Recorder:
    world, _ = build(policy_of(policy), work, hardware(False), options, macro)
    for observer in observers:
        world.attach(observer)
    world.run()
    return world.recorder


def serve(loop: Loop, work: Work) -> None:
    """All of the work through an engine's loop without a thread."""
    inbox, scheduler = loop.inbox, loop.scheduler
    requests = []
    for job in work.jobs():
        params = SamplingParams(max_tokens=None, stop_after=work.output[job.id]).resolved({})
        requests.append(Request(job, [1] * job.prompt, params, job.id, None))
        inbox.put(requests[-1])
    for at, id in work.cancels:
        inbox.cancel(requests[id], "cancelled", at)
    while not inbox.empty or scheduler.live:
        if not loop.turn() and (not inbox.empty or scheduler.live):
            loop.rest()
    assert loop.counters["failed_steps"] == 0


def lived(policy: str | Policy, work: Work, options: dict[str, Any], *observers: Observer) -> Recorder:
    machine = hardware(False)
    clock, inbox = VirtualClock(), Inbox()
    times = MachineTimes(machine, options["max_batch"], max(work.prompt))
    scheduler = scheduler_of(policy_of(policy), times, macro=False, **options)
    recorder = Recorder(machine.memory.block_bytes)
    loop = Loop(scheduler, ScriptedBackend(hardware=machine), recorder, clock, inbox)
    for observer in observers:
        loop.observers.attach(observer)
    try:
        serve(loop, work)
    finally:
        loop.recorder.ended(loop.now)
        loop.observers.ended(loop.now)
    return recorder
