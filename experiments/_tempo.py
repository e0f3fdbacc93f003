"""Tempo: how fast the machine was during a live run, second by second, and the run's simulation at that tempo.

A machine that others share is faster in one second than in the next, and near its capacity a queue makes five or ten
per cent of delay out of one per cent of speed. No profile can know that beforehand. But afterwards the live run tells
it: tempo is the time that the profile gives to the iterations of a second over the time that they took. The simulator's
clock is a clock of work: it runs at the tempo. Arrivals are told to it in its own time, and its answers are told in the
live run's. What such a simulation still misses is not the machine's, nor the profile's level.

A policy's own times (quanta, aging) pass at the tempo here, and in the live run by the wall's clock: an error of second
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastserve.measures import Columns
from fastserve.sched.latency import LatencyModel
from fastserve.workload import Trace

if TYPE_CHECKING:
    from fastserve.engine.fitting import Iteration

WINDOW_S = 1.0
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tempo:
    """wall and work (s, rising, of the same length): the same moments on both clocks; both begin at 0."""

    wall: Floats
    work: Floats

    def in_work(self, trace: Trace) -> Trace:
        """The trace with its arrivals in the clock of work."""
        moments = self._told(trace.arrival / 1e9, self.wall, self.work)
        return replace(trace, arrival=np.rint(moments * 1e9).astype(np.int64))

    def in_wall(self, records: Columns) -> Columns:
        """Records of a simulation in the clock of work, told in the wall's; only arrival, first_token, end, and
        what is between them, jct_from_arrival and ttft. The other columns stay.
        """
        told = {name: self._told(records[name], self.work, self.wall) for name in ("arrival", "first_token", "end")}
        told["jct_from_arrival"] = told["end"] - told["arrival"]
        told["ttft"] = told["first_token"] - told["arrival"]
        return {**records, **told}

    @staticmethod
    def _told(moments: Floats, of: Floats, to: Floats) -> Floats:
        """Beyond the last moment both clocks go on at the last tempo."""
        last = (to[-1] - to[-2]) / (of[-1] - of[-2])
        beyond = np.maximum(moments - of[-1], 0.0) * last
        told: Floats = np.interp(moments, of, to) + beyond
        return told


def tempo_of(iterations: Sequence[Iteration], latency: LatencyModel, origin_s: float) -> Tempo:
    """Of a live run whose trace began at origin_s of the clock that Iteration.at counts by.

    A second without an iteration goes on at the tempo of the one before it. ValueError without iterations.
    """
    from fastserve.engine.fitting import predict_ms

    if not iterations:
        raise ValueError("no iteration was seen, so nothing tells the machine's tempo")
    at = np.array([one.at - origin_s for one in iterations])
    windows = np.maximum(at // WINDOW_S, 0).astype(int)
    took = np.bincount(windows, [one.ms for one in iterations])
    told = np.bincount(windows, [predict_ms(latency, one) for one in iterations])
    tempi = []
    now = float(told.sum() / took.sum())
    for one, other in zip(told, took, strict=True):
        now = float(one / other) if other > 0 else now
        tempi.append(now)
    wall: Floats = np.arange(len(tempi) + 1, dtype=np.float64) * WINDOW_S
    return Tempo(wall, np.concatenate(([0.0], np.cumsum(tempi) * WINDOW_S)))
