"""Saturation: the number of jobs in the system over time, its integral, and whether it grows until the end."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]


def saturated(columns: Columns, *, horizon_s: float) -> bool | None:
    """Whether the queue grows until the last arrival: means then depend on the length of the trace, not on the policy.

    The backlog is the number of jobs that have arrived and not left. It is averaged over ten equal parts of the second
    half of the arrivals. The run is saturated when all three hold: a straight line through the ten averages rises with
    a t-statistic above 3; it rises by at least 5 % of the jobs that arrive in that half; and the last average is more
    than 1.5 times the average over the first half. It is saturated too when a quarter of at least 400 jobs are in the
    system when the last one arrives, however they came there. None for fewer than 50 arrivals: too few to say.
    """
    arrival, left = columns["arrival"], left_at(columns, horizon_s)
    if len(arrival) < 50:
        return None
    first, last = float(arrival.min()), float(arrival.max())
    if last <= first:
        return False
    if len(arrival) >= 400 and np.count_nonzero(left > last) >= len(arrival) / 4:
        return True
    middle = (first + last) / 2
    edges = np.linspace(middle, last, 11)
    area = area_until(arrival, left, np.concatenate(([first], edges)))
    early = area[1] / (middle - first)
    averages = np.diff(area[1:]) / np.diff(edges)
    # Centred positions of the ten parts, in parts.
    position = np.arange(10.0) - 4.5
    slope = float(position @ averages) / float(position @ position)
    residuals = averages - averages.mean() - slope * position
    error = math.sqrt(float(residuals @ residuals) / 8 / float(position @ position))
    late_arrivals = int(np.count_nonzero(arrival > middle))
    return bool(slope > 3 * error and 10 * slope >= 0.05 * late_arrivals and averages[-1] > 1.5 * early)


def left_at(columns: Columns, horizon_s: float) -> Floats:
    """When each job left the system: a rejected one at once, one without an end not before the horizon."""
    end = np.where(columns["finish"] == "rejected", columns["arrival"], columns["end"])
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
