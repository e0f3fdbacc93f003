"""Small machines, workloads and policies that make ties, shortages and alarms common."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastserve.hardware import Hardware, LatencyModel, Link, Memory, load_hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Recorder
from fastserve.policies import make
from fastserve.sched.choose import CopyingMachine
from fastserve.sched.config import Blocks, SchedulerConfig
from fastserve.sched.job import Job
from fastserve.sched.path import Path
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.units import Ids
from sim import link
from sim.inbox import Inbox
from sim.machine import ModelledMachine
from sim.world import World
from tests.sched.closed import ClosedInbox, ClosedWorld
from tests.sched.gates import GATES

MS = 1_000_000
PS_IN_MS = 1_000_000_000


class Coarse(LatencyModel):
    """Everything takes whole milliseconds, so that iterations, quanta, arrivals and waits end together all the time."""

    def __init__(self) -> None:
        super().__init__("coarse", "made for tests")

    def step(self, batch: int) -> int:
        return PS_IN_MS * (1 + batch // 8)

    def iteration_ps(self, batch: int, context: int, chunks: Sequence[tuple[int, int]]) -> int:
        if not batch and not chunks:
            return 0
        return self.step(batch) + PS_IN_MS * sum(-(-n // 64) for _, n in chunks)

    def span_ps(self, k: int, batch: int, context: int) -> int:
        return k * self.step(batch)

    def steps_for(self, ps: int, batch: int, context: int) -> int:
        return max(1, -(-ps // self.step(batch)))

    def to_json(self) -> dict[str, object]:
        return {}


COARSE = Hardware(Coarse(), Memory(16, None, None, 62_500), Link(10**9, 10**9, MS, True))
"""A block is 1,000,000 bytes, and a copy of n blocks takes n + 1 ms."""


@dataclass
class Work:
    """What arrives, by job id."""

    arrival: list[int]
    prompt: list[int]
    output: list[int]
    limit: int
    cancels: list[tuple[int, int]]  # (ns, id)
    ids: list[list[int]] | None = None  # of the units of each prompt, and of those that prompt and answer fill beyond
    answers: list[list[int]] | None = None
    after: dict[int, list[tuple[int, int]]] | None = None  # in closed loop: who comes when one has ended, and ns later
    told: bool = False  # in closed loop: that a program is over
    names: list[str] | None = None  # of programs; None: some with four jobs, some without a name

    def job(self, i: int, at: int) -> Job:
        return Job(
            i, at, self.prompt[i], limit=self.limit, client=f"c{i % 7}", program=self.program(i),
            priority=i * 7919 % 5, deadline=at + (i * 104729 % 60 + 1) * 10**9, guess=self.output[i],
            ids=() if self.ids is None else path(self.ids[i]), tool=f"t{i % 3}" if i % 5 else "", final=i % 4 == 3,
        )  # fmt: skip

    def program(self, i: int) -> str:
        if self.names is not None:
            return self.names[i]
        return f"p{i // 4}" if i % 11 != 5 else ""

    def jobs(self) -> list[Job]:
        return [self.job(i, at) for i, at in enumerate(self.arrival)]

    @property
    def calls(self) -> list[str]:
        """The tool that each answer calls."""
        return [f"tool-{i * 31 % 4}" if i % 6 else "" for i in range(len(self.arrival))]


def path(ids: list[int]) -> Ids:
    """The same in one part or in two."""
    half = len(ids) // 2
    return Path((ids[:half], tuple(ids[half:]))) if half % 3 == 1 else tuple(ids)


def chained(rng: random.Random, work: Work) -> None:
    """Makes a closed loop of it: turns, forks, and programs that begin when others have ended."""
    work.after = {}
    work.told = rng.random() < 0.7
    for i in range(1, len(work.arrival)):
        if i % 4 and rng.random() < 0.8:
            parent = i - 1 if rng.random() < 0.7 else rng.randint(i // 4 * 4, i - 1)
        elif rng.random() < 0.4:
            parent = rng.randint(max(0, i - 9), i - 1)
        else:
            continue
        work.after.setdefault(parent, []).append((i, rng.choice([1, 1, 3, 10, 40, 200]) * MS))


def workload(rng: random.Random, n: int, coarse: bool, slots: int, cancels: bool) -> Work:
    prompt = [min(600, 1 + int(rng.expovariate(1 / 90))) for _ in range(n)]
    output = [min(120, 1 + int(rng.expovariate(1 / 20))) for _ in range(n)]
    ms = sum(output) * (2 if coarse else 21) / slots + sum(prompt) * (1 / 64 if coarse else 0.11)
    gap = ms / n / rng.choice([0.5, 0.9, 1.5])
    arrival = []
    t = 0.0
    for _ in range(n):
        arrival.append(int(t) * MS)
        if rng.random() < 0.8:  # some arrive together
            t += rng.expovariate(0.8 / gap)
    gone = []
    if cancels:
        gone = [(arrival[i] + rng.randint(0, int(20 * gap) + 20) * MS, i) for i in range(n) if rng.random() < 0.15]
    return Work(arrival, prompt, output, max(output), gone)


class Chaos(Policy):
    """Every alarm at once, waking and ranking its siblings too, and its own idea of what is cold."""

    settled = True

    def __init__(self) -> None:
        self.level: dict[Job, int] = {}
        self.family: dict[str, list[Job]] = {}
        self.turn = 0

    def rank(self, job: Job) -> int:
        return self.level[job]

    def coldest(self, parked: list[Job]) -> list[Job]:
        return sorted(parked, key=lambda job: (job.id * 7919 % 11, job.arrival, job.id))

    def arrive(self, job: Job) -> None:
        self.family.setdefault(job.program, []).append(job)
        self.level[job] = job.id % 5
        self.wake(job, served=(job.id % 4 + 1) * 4 * MS, tokens=job.id % 3 * 4, waited=(job.id % 6 + 1) * 15 * MS)

    def depart(self, job: Job) -> None:
        self.family[job.program].remove(job)
        del self.level[job]
        self.rerank(job)  # too late: no effect
        self.wake(job, waited=MS)

    def alarm(self, job: Job, why: str) -> None:
        self.turn += 1
        self.level[job] = (self.level[job] + self.turn + len(why)) % 7
        self.rerank(job)
        if why == "served":
            self.wake(job, served=(self.turn % 5 + 2) * 3 * MS, tokens=5)
        elif why == "tokens":
            self.wake(job, tokens=self.turn % 9 + 1, waited=None if self.turn % 4 == 0 else 20 * MS)
        for sibling in self.family[job.program]:
            if self.turn % 3 == 0:
                self.level[sibling] = self.turn % 7
                self.rerank(sibling)
            if self.turn % 5 == 0:
                self.wake(sibling, served=None if self.turn % 2 else 6 * MS, waited=8 * MS)


class Stranger(Policy):
    """Highest response ratio next, by somebody who promises nothing."""

    def rank(self, job: Job) -> float:
        return -(self.now - job.arrival) / (job.prompt + 10 * job.generated)


class Rounds(Policy):
    """Its own queue: one job of each client in turn; equal rank, so nobody is interrupted."""

    settled = True

    def __init__(self) -> None:
        self.clients: dict[str, dict[Job, None]] = {}

    def rank(self, job: Job) -> int:
        return 0

    def arrive(self, job: Job) -> None:
        self.clients.setdefault(job.client, {})[job] = None

    def depart(self, job: Job) -> None:
        del self.clients[job.client][job]

    def waiting(self) -> list[Job]:
        lines = [[job for job in jobs if not job.running] for _, jobs in sorted(self.clients.items())]
        most = max(map(len, lines), default=0)
        return [line[turn] for turn in range(most) for line in lines if turn < len(line)]


def tuned(name: str, coarse: bool, seed: int = 0) -> Policy:
    """The policy, with quanta that bite at the scale of the test's machine. seed: of its own dice."""
    if name == "chaos":
        return Chaos()
    if name == "stranger":
        return Stranger()
    if name == "rounds":
        return Rounds()
    if name in GATES:
        return GATES[name](seed)
    if name == "las":
        return make(name, {"quantum": 0.010 if coarse else 0.1})
    if name == "sj-mlfq:artifact":
        return make("sj-mlfq", {"preset": "artifact", "alpha": 0.05 if coarse else 0.5, "check": 40})
    if name == "sj-mlfq:knobs":
        return make(
            "sj-mlfq",
            {"carry": True, "demote_to": "fit", "reset": False, "alpha": 0.05, "levels": 6, "promote_to": "front"},
        )
    if name.endswith("mlfq:tokens"):
        return make(name.removesuffix(":tokens"), {"quanta": "tokens", "alpha": 0.05 if coarse else 0.3, "carry": True})
    if name in ("mlfq", "sj-mlfq") and coarse:
        return make(name, {"alpha": 0.050})
    if name == "working-set":
        return make(name, {"max_wait": 0.2 if coarse else 2.0})
    if name.startswith("continuum"):
        return make("continuum", {"rule": "paper" if ":" in name else "code", "pin": 0.02 if coarse else 0.2})
    if name.startswith("thunder"):
        return make("thunder", {"tick": 0.01 if coarse else 0.1, "forced": 0.3, "decay": ":" in name})
    if name == "concur":
        return make(name, {"period": 0.005 if coarse else 0.05, "window": 0.1 if coarse else 1.0, "hits": 0.6})
    if name in ("plas", "atlas"):
        return make(name, {"beta": 2.0})
    return make(name)


NAMES = (
    "chaos", "stranger", "rounds", "fcfs", "fixed-priority", "las", "mlfq", "sj-mlfq", "sj-mlfq:artifact",
    "sj-mlfq:knobs", "mlfq:tokens", "sj-mlfq:tokens", "sjf", "srpt", "program-fcfs", "plas", "atlas",
    "deepest-first", "lpm", "cachewise", "continuum", "continuum:paper", "thunder", "thunder:decay",
    "concur", "working-set", *GATES,
)  # fmt: skip


def hardware(coarse: bool) -> Hardware:
    return COARSE if coarse else load_hardware("opt-13b-a100")


def scheduler_of(
    policy: Policy,
    times: CopyingMachine,
    *,
    device_blocks: int | None = None,
    host_blocks: int | None = 0,
    static_timeout: int = 10**9,
    macro: bool = True,
    **settings: Any,
) -> Scheduler:
    """From settings and pools in one list, as the specification takes them. static_timeout: ns."""
    config = SchedulerConfig(static_timeout=static_timeout / 1e9, **settings)
    return config.build(policy, times, Blocks(device_blocks, host_blocks), macro=macro)


def build(
    policy: Policy,
    work: Work,
    machine: Hardware,
    options: dict[str, object],
    macro: bool = True,
    body: Callable[..., ModelledMachine] = ModelledMachine,
) -> tuple[World, Scheduler]:
    """A simulated world around this policy, ready to run. body: made of latency model, link, outputs and inbox."""
    times = MachineTimes(machine, int(options["max_batch"]), max(work.prompt))  # type: ignore[call-overload]
    scheduler = scheduler_of(policy, times, macro=macro, **options)
    carrier = link.Link(machine.link, machine.memory.block_bytes)
    closed = work.after is not None
    inbox = ClosedInbox(work) if closed else Inbox(iter(work.jobs()), work.cancels)
    executor = body(machine.latency, carrier, work.output, inbox)
    kind = ClosedWorld if closed else World
    world = kind(scheduler, executor, carrier, inbox, Recorder(machine.memory.block_bytes))
    if isinstance(inbox, ClosedInbox):
        world.attach(inbox.ends)
    return world, scheduler
