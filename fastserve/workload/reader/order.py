"""Rows that are out of order: a clock that went wrong in one row, or a file merged from several."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastserve.workload.trace import IntArray

FEW = 0.05
"""Share of the rows up to which those out of place are told one by one; beyond it the file is a merge."""

NEAR = 0.01
"""Share of the span up to which a row that is out of place came late into the log rather than from a wrong clock."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to do with the rows of a file."""

    wrong: npt.NDArray[np.intp]
    """Rows whose time cannot be right, increasing."""
    moved: int
    """Rows that stand out of order beside those; 0: nothing has to be sorted."""


def allowed(rows: int) -> int:
    """How many of so many rows are few."""
    return max(1, int(FEW * rows))


def examine(arrival: IntArray) -> Order:
    """The fewest rows without which the others are in order (a longest non-decreasing subsequence) are out of place.

    Few of them, each far from its neighbours: wrong clocks. Otherwise rows to be sorted.
    """
    none = np.empty(0, np.intp)
    steps = np.diff(arrival)
    if not (steps < 0).any():
        return Order(none, 0)
    out = _out_of_place(arrival)
    if len(out) > allowed(len(arrival)):
        return Order(none, len(out))
    kept = np.ones(len(arrival), bool)
    kept[out] = False
    inside = np.flatnonzero(kept)
    times = arrival[inside]
    place = np.searchsorted(inside, out)
    before = times[np.maximum(place - 1, 0)]
    after = times[np.minimum(place, len(times) - 1)]
    far = np.maximum(before - arrival[out], arrival[out] - after) > NEAR * (times[-1] - times[0])
    wrong = out[far]
    return Order(wrong, len(out) - len(wrong))


def _out_of_place(arrival: IntArray) -> npt.NDArray[np.intp]:
    """Rows outside of a longest non-decreasing subsequence; of several that would do, the later rows are outside, but
    for the end, where a clock far ahead would stay.

    Patience sorting from the end, O(n log n).
    """
    tails: list[int] = []  # of each length, the largest possible first element, negated
    lengths = []
    for value in (-arrival[::-1]).tolist():
        at = bisect_right(tails, value)
        if at == len(tails):
            tails.append(value)
        else:
            tails[at] = value
        lengths.append(at)
    wanted, last = len(tails) - 1, None
    outside, ends = [], []
    times = arrival.tolist()
    for row, length in enumerate(reversed(lengths)):
        if length == wanted and (last is None or times[row] >= last):
            wanted, last = wanted - 1, times[row]
            ends.append(row)
        elif wanted < 0 and length == 0 and (len(ends) < 2 or times[row] >= times[ends[-2]]):
            outside.append(ends[-1])  # of several rows that could be the last, the earliest time is
            ends[-1] = row
        else:
            outside.append(row)
    return np.array(sorted(outside), np.intp)
