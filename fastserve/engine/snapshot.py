"""Snapshot: the state of the engine between two iterations, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from fastserve.engine.loop import Loop
from fastserve.engine.request import Request, state_of
from fastserve.observers.live_feed import explained
from fastserve.sched.job import NEVER, Job
from fastserve.sched.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class JobView:
    """One live request. Times in s of the engine's clock."""

    id: int
    state: str  # queued, running or preempted
    slot: int | None  # of the batch, while it runs
    level: str  # the policy's explain()
    prompt_tokens: int
    prefilled_tokens: int  # of prompt and output, by prefills; less than prompt_tokens during its prefill
    output_tokens: int
    max_tokens: int
    arrival: float
    served: float
    preemptions: int
    place: str  # where its KV is: nowhere, device, leaving, host or coming
    client: str
    program: str
    priority: int
    cached_tokens: int  # of its prompt, found when it first joined
    held_s: float  # s for which its policy has held it back
    held_back: bool  # now


@dataclass(frozen=True, slots=True)
class Pool:
    """KV of one memory, in tokens; total is None where it is unlimited."""

    total: int | None
    used: int  # by running jobs (device), by KV kept on the host
    parked: int  # KV of jobs that do not run, and of copies in flight
    idle: int = 0  # cached units: on the device those that nobody holds, and whose room is free; on the host all


@dataclass(frozen=True, slots=True)
class Snapshot:
    at: float  # s of the engine's clock
    alive: bool
    error: str | None
    policy: str  # as it was given: a name of the table, or module:Class
    slots: int
    running: int
    waiting: int
    held: int  # of those that wait, who is held back
    jobs: tuple[JobView, ...]  # running jobs by slot, then waiting jobs in the order of submission, up to a bound
    device: Pool
    host: Pool
    copies: int  # in flight
    steps: int
    scheduler_us: float  # an iteration's time in the Scheduler and its policy, mean since the start
    host_us: float  # an iteration's time outside the model and its copies, the Scheduler's included; mean likewise
    scheduler_share: float  # of the time of iterations, since the start; 0 before the first
    host_share: float
    counters: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def take(loop: Loop, most: int, policy: str = "") -> Snapshot:
    """Engine's thread only. most: maximum number of waiting jobs listed. policy: its name, by default its class's."""
    scheduler = loop.scheduler
    seats = loop.observers.seats()
    running = sorted(scheduler.running, key=lambda job: seats.get(job, 0))
    waiting = islice((job for job in scheduler.live if not job.running), most)
    shown = [loop.requests[job] for job in [*running, *waiting] if job in loop.requests]
    device, host = pools(scheduler)
    steps, busy = max(1, loop.steps), max(1, loop.busy_ns)
    host_ns = loop.busy_ns - loop.model_ns - loop.waited_ns
    return Snapshot(
        at=loop.clock.now() / 1e9,
        alive=loop.alive,
        error=loop.error,
        policy=policy or type(scheduler.policy).__name__,
        slots=scheduler.slots,
        running=len(running),
        waiting=len(scheduler.live) - len(running),
        held=len(scheduler.holding.jobs),
        jobs=tuple(_views(loop, seats, shown)),
        device=device,
        host=host,
        copies=len(scheduler.ledger.copies),
        steps=loop.steps,
        scheduler_us=loop.scheduler_ns / steps / 1e3,
        host_us=host_ns / steps / 1e3,
        scheduler_share=loop.scheduler_ns / busy,
        host_share=host_ns / busy,
        counters=dict(loop.counters),
    )


def pools(scheduler: Scheduler) -> tuple[Pool, Pool]:
    """Device and host, from the Scheduler's ledger."""
    ledger = scheduler.ledger
    block = ledger.block
    sharing = scheduler.sharing
    idle = 0 if sharing is None else sharing.tree.idle_units * sharing.unit
    device = Pool(_total(ledger.blocks, block), ledger.used * block, ledger.cold * block, idle)
    copying = sum([copy.blocks for copy in ledger.copies if copy.out and copy.units is None])  # units: see `kept`
    tier = None if sharing is None else sharing.tier
    kept = 0 if sharing is None or tier is None else tier.units * sharing.unit
    return device, Pool(_total(ledger.host, block), (ledger.hosted - copying) * block, copying * block, kept)


def _total(blocks: int, block: int) -> int | None:
    return None if blocks >= NEVER else blocks * block


def _views(loop: Loop, seats: Mapping[Job, int], requests: Iterable[Request]) -> Iterable[JobView]:
    policy, trails = loop.scheduler.policy, loop.recorder.trails
    for request in requests:
        job = request.job
        trail = trails.get(job)
        yield JobView(
            id=job.id,
            state=state_of(job),
            slot=seats.get(job),
            level=explained(policy, job),
            prompt_tokens=job.prompt,
            prefilled_tokens=job.prefilled,
            output_tokens=job.generated,
            max_tokens=job.limit,
            arrival=job.arrival / 1e9,
            served=job.served / 1e9,
            preemptions=job.preemptions,
            place=job.place.value,
            client=job.client,
            program=job.program,
            priority=job.priority,
            cached_tokens=0 if trail is None else trail.cached,
            held_s=job.held / 1e9,
            held_back=job.held_back,
        )
