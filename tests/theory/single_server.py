"""A single server: a batch of one, unlimited memory, and iteration times made to measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastserve.hardware import Hardware, LatencyModel, Link, Memory
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Columns, Recorder
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from sim import link
from sim.inbox import Inbox
from sim.machine import ModelledMachine
from sim.world import World
from tests.sched.worlds import scheduler_of

SECOND = 1_000_000_000
PS = 1000  # in a ns


class Meted(LatencyModel):
    """token_ns for each prompt token, step_ns for each decode iteration whatever the batch; no fixed cost."""

    def __init__(self, token_ns: int, step_ns: int) -> None:
        super().__init__("meted", "made for tests")
        self.token = token_ns * PS
        self.step = step_ns * PS

    def iteration_ps(self, batch: int, context: int, chunks: Sequence[tuple[int, int]]) -> int:
        return (self.step if batch else 0) + self.token * sum(tokens for _, tokens in chunks)

    def span_ps(self, k: int, batch: int, context: int) -> int:
        return k * self.step

    def steps_for(self, ps: int, batch: int, context: int) -> int:
        return max(1, -(-ps // self.step))

    def to_json(self) -> dict[str, object]:
        return {}


@dataclass
class Queue:
    """Jobs by id. arrival: ns; prompt, output: tokens. Alone it takes prompt * token_ns + (output - 1) * decode_ns."""

    arrival: list[int]
    prompt: list[int]
    output: list[int]
    token_ns: int = SECOND
    decode_ns: int = SECOND
    slots: int = 1
    longest: int | None = None
    options: dict[str, object] = field(default_factory=dict)

    def jobs(self) -> Iterator[Job]:
        limit = max(self.output)
        for i, at in enumerate(self.arrival):
            yield Job(i, at, self.prompt[i], limit=limit, guess=self.output[i])

    def world(self, policy: Policy) -> World:
        """A simulated world, ready to run."""
        hardware = Hardware(Meted(self.token_ns, self.decode_ns), Memory(), Link())
        times = MachineTimes(hardware, self.slots, self.longest or max(self.prompt))
        options: dict[str, object] = {"batching": "mixed", "token_budget": 10**12} | self.options
        scheduler = scheduler_of(policy, times, max_batch=self.slots, **options)  # type: ignore[arg-type]
        carrier = link.Link(hardware.link, 0)
        inbox = Inbox(self.jobs())
        machine = ModelledMachine(hardware.latency, carrier, self.output, inbox)
        return World(scheduler, machine, carrier, inbox, Recorder())

    def serve(self, policy: Policy) -> Columns:
        """The records of a whole run, by id."""
        world = self.world(policy)
        world.run()
        return world.recorder.columns()


def poisson(rng: np.random.Generator, n: int, gap_ns: float) -> list[int]:
    """ns: n arrivals with exponential gaps of this mean."""
    return [int(at) for at in np.cumsum(rng.exponential(gap_ns, n))]


def mean_jct(columns: Columns) -> float:
    """s."""
    return float(np.mean(columns["jct_from_arrival"]))
