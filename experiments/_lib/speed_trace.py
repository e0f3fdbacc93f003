"""SpeedTrace: the machine's relative speed during a live run, second by second, and a simulation at that speed.

The speed of a shared machine varies from second to second, and near capacity one per cent of speed changes queueing
delay by five or ten per cent, which no profile can predict. The speed of a second is the time that the profile predicts
for its iterations over the time that they took; one that passes through several seconds counts in each by its part in
it, so that a machine that stood still for seconds is slow in all of them. The simulator runs the same profile at that
speed: work takes as long as the seconds that it passes through let it.

This corrects for everything that makes a second's iterations longer than the profile predicts: the machine, an outdated
profile, and the cost of arrivals and copies on the engine's thread. It does not change which jobs run when, preemptions
or copies: the simulator computes these. Noise below a second remains.
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
"""Busy ms of a second below which it is assigned the speed of the whole run."""
_SECOND_PS = 10**12


@dataclass(frozen=True, slots=True)
class SpeedTrace:
    """each: work done in each second since the start of the trace, s, all above 0; the last value holds beyond."""

    each: tuple[float, ...]

    def wall_ps(self, at_ps: int, work_ps: int) -> int:
        """The time that this work takes when it starts at at_ps."""
        left, now = float(work_ps), float(at_ps)
        while True:
            second = min(int(now // _SECOND_PS), len(self.each) - 1)
            until = (second + 1) * _SECOND_PS if second < len(self.each) - 1 else float("inf")
            done = (until - now) * self.each[second]
            if done >= left:
                return round(now + left / self.each[second]) - at_ps
            left, now = left - done, until

    def attach(self, world: World) -> None:
        """Call before world.run(): its machine runs at this speed."""
        world.machine = PacedMachine(world.machine, self)  # type: ignore[assignment]


class PacedMachine:
    """A body: a modelled machine at varying speed, one iteration at a time."""

    def __init__(self, inner: ModelledMachine, tempo: SpeedTrace) -> None:
        self.inner = inner
        self.latency = inner.latency = PacedLatency(inner.latency, tempo)

    def run(self, plan: Plan) -> Outcome:
        plan.iterations = 1
        self.latency.now_ps = plan.now * 1000
        return self.inner.run(plan)


class PacedLatency(LatencyModel):
    """Iteration times at the speed of now_ps."""

    def __init__(self, inner: LatencyModel, tempo: SpeedTrace) -> None:
        super().__init__(inner.name, inner.provenance)
        self.inner = inner
        self.tempo = tempo
        self.now_ps = 0

    def iteration_ps(self, batch: int, context: int, chunks: Sequence[tuple[int, int]]) -> int:
        return self.tempo.wall_ps(self.now_ps, self.inner.iteration_ps(batch, context, chunks))

    def span_ps(self, k: int, batch: int, context: int) -> int:
        return self.tempo.wall_ps(self.now_ps, self.inner.span_ps(k, batch, context))


def speed_trace_of(iterations: Sequence[Iteration], latency: LatencyModel, origin_s: float) -> SpeedTrace:
    """The speed trace of a live run whose trace started at origin_s of the clock of Iteration.at.

    Beyond the end: the speed of the whole run. ValueError without iterations, or with one before the start.
    """
    from fastserve.profiler.fit import predict_ms

    if not iterations:
        raise ValueError("no iteration was measured, so the machine's speed is unknown")
    at = np.array([one.at - origin_s for one in iterations])
    if at.min() < -1e-3:
        raise ValueError(f"an iteration began {-at.min():.3f} s before the trace did: this is not its clock")
    last = max(start + one.ms / 1e3 for start, one in zip(at.tolist(), iterations, strict=True))
    took, predicted = np.zeros(int(last) + 1), np.zeros(int(last) + 1)
    for start, one in zip(np.maximum(at, 0.0).tolist(), iterations, strict=True):
        end, work = start + one.ms / 1e3, predict_ms(latency, one)
        for second in range(int(start), int(end) + 1):
            part = (min(end, second + 1) - max(start, second)) * 1e3
            took[second] += part
            predicted[second] += work * part / one.ms
    whole = float(predicted.sum() / took.sum())
    each = [float(work / wall) if wall >= FEW_MS else whole for work, wall in zip(predicted, took, strict=True)]
    return SpeedTrace((*each, whole))
