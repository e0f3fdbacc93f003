"""Tempo: how fast the machine was during a live run, second by second, and the run's simulation at that tempo.

A machine that others share is faster in one second than in the next, and near its capacity a queue makes five or ten
per cent of delay out of one per cent of speed. No profile can know that beforehand. But afterwards the live run tells
it: tempo is the time that the profile gives to the iterations of a second over the time that they took. The simulator
runs the same profile at that tempo: an iteration that begins in a slow second takes longer by as much.

So a tempo forgives whatever makes a second's iterations longer than the profile says: the machine, but also a profile
of another minute, and what arrivals and copies cost the engine's thread. It does not touch which jobs run when, who is
preempted, what is copied and for how long: these are the simulator's own. Noise below a second stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastserve.hardware import LatencyModel
from fastserve.sched.plan import Outcome, Plan
from sim.machine import ModelledMachine
from sim.world import World

if TYPE_CHECKING:
    from fastserve.profiler.fit import Iteration

FEW_MS = 200.0
"""Iterations of a second that took less than this together tell nothing: it has the tempo of the whole run."""
_SECOND_PS = 10**12


@dataclass(frozen=True, slots=True)
class Tempo:
    """each: work done in each second since the trace's beginning, s, all above 0; beyond the last it goes on so."""

    each: tuple[float, ...]

    def wall_ps(self, at_ps: int, work_ps: int) -> int:
        """How long work takes that begins then."""
        left, now = float(work_ps), float(at_ps)
        while True:
            second = min(int(now // _SECOND_PS), len(self.each) - 1)
            until = (second + 1) * _SECOND_PS if second < len(self.each) - 1 else float("inf")
            done = (until - now) * self.each[second]
            if done >= left:
                return round(now + left / self.each[second]) - at_ps
            left, now = left - done, until

    def attach(self, world: World) -> None:
        """Before world.run(): its machine runs at this tempo."""
        world.machine = Paced(world.machine, self)  # type: ignore[assignment]


class Paced:
    """An Executor: a modelled machine at a tempo, one iteration at a time."""

    def __init__(self, inner: ModelledMachine, tempo: Tempo) -> None:
        self.inner = inner
        self.latency = inner.latency = PacedLatency(inner.latency, tempo)

    def run(self, plan: Plan) -> Outcome:
        plan.iterations = 1
        self.latency.now_ps = plan.now * 1000
        return self.inner.run(plan)


class PacedLatency(LatencyModel):
    """An iteration's time where the machine's tempo is that of now_ps."""

    def __init__(self, inner: LatencyModel, tempo: Tempo) -> None:
        super().__init__(inner.name, inner.provenance)
        self.inner = inner
        self.tempo = tempo
        self.now_ps = 0

    def iteration_ps(self, batch: int, context: int, chunks: Sequence[tuple[int, int]]) -> int:
        return self.tempo.wall_ps(self.now_ps, self.inner.iteration_ps(batch, context, chunks))

    def span_ps(self, k: int, batch: int, context: int) -> int:
        return self.tempo.wall_ps(self.now_ps, self.inner.span_ps(k, batch, context))


def tempo_of(iterations: Sequence[Iteration], latency: LatencyModel, origin_s: float) -> Tempo:
    """Of a live run whose trace began at origin_s of the clock that Iteration.at counts by; at its end the whole run's.

    ValueError without iterations, or with one before the beginning.
    """
    from fastserve.profiler.fit import predict_ms

    if not iterations:
        raise ValueError("no iteration was seen, so nothing tells the machine's tempo")
    at = np.array([one.at - origin_s for one in iterations])
    if at.min() < -1e-3:
        raise ValueError(f"an iteration began {-at.min():.3f} s before the trace did: this is not its clock")
    seconds = np.maximum(at, 0.0).astype(int)
    took = np.bincount(seconds, [one.ms for one in iterations])
    told = np.bincount(seconds, [predict_ms(latency, one) for one in iterations])
    whole = float(told.sum() / took.sum())
    each = [float(work / wall) if wall >= FEW_MS else whole for work, wall in zip(told, took, strict=True)]
    return Tempo((*each, whole))
