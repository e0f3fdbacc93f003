"""Saturation: the number of jobs in the system over time, its integral, and whether more come than can leave."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.finish import is_outcome

Columns = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]

FEWEST = 50
"""Arrivals below which nothing is said."""
BATCHES = 20
"""Equal parts of the run, whose flows are taken as independent."""
CRITICAL, CRITICAL_LATE = 1.729, 2.539
"""95 % and 99 % quantile of Student's t with BATCHES - 1 degrees of freedom: for the whole run, and its second half."""
SPARE = 0.01
"""A queue is stable with this much of its departure rate to spare; what is nearer to it takes a longer run to tell."""
LOW = 0.1
"""The backlog counts as low for this share of the time."""
FILLING = 0.03
"""Share of the arrivals' time, at least, in which an empty system fills up."""
FLOOD, FLOODED = 400, 0.25
"""Of so many jobs at least, this share is still there when the last one arrives: no test is needed."""


class Flow(NamedTuple):
    """Jobs/s over the run. arrivals: as they came. departures: as they left while the backlog was not low."""

    arrivals: float
    departures: float
    z: float
    """(arrivals - (1 - SPARE) departures) over its standard error."""
    grows: bool
    """The backlog of the run's last tenth is above that of its first half."""

    def refuses(self, critical: float) -> bool:
        """The hypothesis that what leaves is more than what comes."""
        return self.grows and self.z > critical and self.arrivals > self.departures


def saturated(columns: Columns, *, horizon_s: float) -> bool | None:
    """Whether the queue grows until the last arrival: means then depend on the length of the trace, not on the policy.

    A test of the hypothesis that jobs arrive at no more than 99 % of the rate at which they leave while the backlog
    (jobs that have arrived and not left) is not low. Near saturation a backlog wanders for as long as many a run lasts,
    so it has no noise of its own to be compared with. The two flows have: that of arrivals and services. It is taken
    from 20 equal parts of the run (batch means of the difference's influence function, one-sided Student test).
    Saturated are runs where the hypothesis is refused over the whole run (at 5 %) or over its second half (at 1 %: the
    rate may rise), jobs did come faster than they left, and the backlog of the last tenth is above that of the first
    half. A stable queue satisfies the hypothesis whatever its kind and policy: as often as the backlog rises from a
    level it falls back to it, so that from above the level as many leave as come at or above it, in less time.

    Low is a level below which the backlog is for a tenth of the time. What comes before the first arrivals have left
    belongs to the filling of an empty system and is left out, at least 3 % and at most half of the arrivals' time.

    A quarter of at least 400 jobs in the system when the last one arrives are saturation without a test, however they
    came there. None for fewer than 50 arrivals: too few to say. Jobs that were rejected have never been in the system.
    docs/statistics.md has the rates of false alarms and of detection.
    """
    inside = ~is_outcome(columns["finish"], "rejected")
    arrival, left = columns["arrival"][inside], left_at(columns, horizon_s)[inside]
    return saturated_flow(arrival, left) if len(arrival) >= FEWEST else None


def saturated_flow(arrival: Floats, left: Floats) -> bool:
    """saturated() of jobs that arrived and left at these times, in s."""
    last = float(arrival.max())
    if last <= float(arrival.min()):
        return False
    if len(arrival) >= FLOOD and np.count_nonzero(left > last) >= FLOODED * len(arrival):
        return True
    filled, middle = _filled(arrival, left), (float(arrival.min()) + last) / 2
    return flow(arrival, left, filled).refuses(CRITICAL) or flow(arrival, left, middle).refuses(CRITICAL_LATE)


def flow(arrival: Floats, left: Floats, start: float) -> Flow:
    """What saturated() compares, from `start` (s) to the last arrival, which must be later.

    The estimate is A / T - (1 - SPARE) D / B, of A arrivals in T seconds and D departures in the B seconds of backlog
    above the low level; its standard error is that of the ratio D / B linearised, over BATCHES parts.
    """
    first, last = float(arrival.min()), float(arrival.max())
    moments = np.concatenate((arrival, left))
    order = np.argsort(moments, kind="stable")
    moments, came = moments[order], order < len(arrival)
    after = np.cumsum(np.where(came, 1, -1))  # the backlog from each moment to the next
    edges = np.linspace(start, last, BATCHES + 1)
    lengths = np.diff(np.clip(moments, edges[0], last))
    occupied = np.cumsum(np.bincount(after[:-1], weights=lengths))
    low = int(np.searchsorted(occupied, LOW * occupied[-1]))
    above = _integral(moments, after > low, edges)
    arrivals = _counts(moments[came], edges)
    departures = _counts(moments[~came & (np.concatenate(([0], after[:-1])) > low)], edges)
    time, busy = last - start, float(above.sum())
    if busy <= 0:  # it never rises
        return Flow(float(arrivals.sum()) / time, math.inf, -math.inf, grows=False)
    coming, leaving = float(arrivals.sum()) / time, float(departures.sum()) / busy
    influence = (arrivals - coming * time / BATCHES) / time - (1 - SPARE) * (departures - leaving * above) / busy
    error = math.sqrt(BATCHES / (BATCHES - 1) * float(influence @ influence))
    excess = coming - (1 - SPARE) * leaving
    parts = np.array([first, (first + last) / 2, last - (last - first) / 10, last])
    backlogs = _integral(moments, after, parts) / np.diff(parts)
    z = excess / error if error > 0 else math.copysign(math.inf, excess)
    return Flow(coming, leaving, z, bool(backlogs[-1] > backlogs[0]))


def _filled(arrival: Floats, left: Floats) -> float:
    """When an empty system has filled up: nine in ten of those that came in the first 3 % have left."""
    first, last = float(arrival.min()), float(arrival.max())
    early = arrival <= first + FILLING * (last - first)
    stayed = float(np.quantile(left[early] - arrival[early], 0.9))
    return first + min(max(FILLING * (last - first), stayed), (last - first) / 2)


def _counts(moments: Floats, edges: Floats) -> Floats:
    return np.diff(np.searchsorted(moments, edges, side="right")).astype(float)


def _integral(moments: Floats, values: NDArray[Any], edges: Floats) -> Floats:
    """Of a step function that has values[i] from moments[i] on, over each part between two edges."""
    area = np.concatenate(([0.0], np.cumsum(np.diff(moments) * values[:-1])))
    return np.diff(np.interp(edges, moments, area))


def left_at(columns: Columns, horizon_s: float) -> Floats:
    """When each job left the system: a rejected one at once, one without an end not before the horizon."""
    end = np.where(is_outcome(columns["finish"], "rejected"), columns["arrival"], columns["end"])
    return np.where(np.isnan(end), np.maximum(horizon_s, columns["arrival"]), end).astype(float)


def area_until(arrival: Floats, left: Floats, times: Floats) -> Floats:
    """Integral of the number of jobs in the system up to each of `times` (ascending), in job seconds."""
    moments = np.concatenate((arrival, left))
    order = np.argsort(moments, kind="stable")
    moments = moments[order]
    count = np.cumsum(np.where(order < len(arrival), 1, -1))
    area = np.concatenate(([0.0], np.cumsum(count[:-1] * np.diff(moments))))
    at = np.searchsorted(moments, times, side="right") - 1
    inside = np.maximum(at, 0)
    return np.where(at < 0, 0.0, area[inside] + count[inside] * (times - moments[inside]))


def covered(begin: Floats, end: Floats) -> float:
    """Length of the union of the intervals [begin, end]."""
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], end[order]
    reached = np.concatenate(([-math.inf], np.maximum.accumulate(end)[:-1]))
    return float(np.sum(np.clip(end - np.maximum(begin, reached), 0.0, None)))
