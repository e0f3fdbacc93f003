"""Rows that are out of order: a clock that went wrong in one row, or a file merged from several."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fastserve.workload.trace import IntArray

FEW = 0.05
"""Share of the rows up to which those out of place are told one by one; beyond it the file is a merge."""

NEAR = 0.01
GAPS = 3
"""A row that is out of place by up to this share of the span, or (of LEAST rows or more) by so many mean gaps, was
written late; by more its clock is wrong."""

LEAST = 10
"""Rows below which a mean gap says nothing."""

RUN = 3
SCATTERED = 5
"""So many successive rows, or so many anywhere, that are out of place and in order among themselves are another source
(by chance five are in order once in 120)."""

LONELY_SPANS, LONELY_NS = 100, 3600 * 10**9
"""The first or the last row (of LEAST or more) stands alone if it is an hour and so many spans of all others away."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to do with the rows of a file."""

    wrong: npt.NDArray[np.intp]
    """Rows whose time cannot be right, increasing."""
    apart: npt.NDArray[np.int64]
    """ns, of each of them: how much later than the next row that is in order; negative: earlier than the last one."""
    moved: int
    """Rows that stand out of order beside those; 0: nothing has to be sorted."""
    merged: bool
    """Whether the moved ones are those of another source, rather than a few that were written late."""


def allowed(rows: int) -> int:
    """How many of so many rows are few."""
    return max(1, int(FEW * rows))


def examine(arrival: IntArray) -> Order:
    """The fewest rows without which the others are in order (a longest non-decreasing subsequence) are out of place.

    Few of them, each far from its neighbours and no source of their own: wrong clocks. Otherwise rows to be sorted.
    """
    nothing = Order(np.empty(0, np.intp), np.empty(0, np.int64), 0, False)
    steps = np.diff(arrival)
    if not (steps < 0).any():
        return nothing
    out = _out_of_place(arrival)
    if len(out) > allowed(len(arrival)):
        return replace(nothing, moved=len(out), merged=True)
    kept = np.ones(len(arrival), bool)
    kept[out] = False
    inside = np.flatnonzero(kept)
    times = arrival[inside]
    place = np.searchsorted(inside, out)
    early = times[np.maximum(place - 1, 0)] - arrival[out]
    late = arrival[out] - times[np.minimum(place, len(times) - 1)]
    span = times[-1] - times[0]
    near = max(NEAR, GAPS / len(arrival) if len(arrival) >= LEAST else 0.0) * span
    far = np.maximum(early, late) > near
    other = np.zeros(len(out), bool)
    within = far & (arrival[out] >= times[0] - span) & (arrival[out] <= times[-1] + span)
    other[within] = _another_source(out[within], arrival[out[within]])
    wrong = far & ~other
    return Order(out[wrong], np.where(late > early, late, -early)[wrong], int((~wrong).sum()), bool(other.any()))


def _another_source(rows: npt.NDArray[np.intp], times: IntArray) -> npt.NDArray[np.bool_]:
    """Which of these rows, all out of place, are another file's: in order among themselves, and not all at one time."""

    def one(times: IntArray, least: int) -> bool:
        distinct = len(np.unique(times))
        return len(times) >= least and distinct > len(times) // 2 and bool((np.diff(times) >= 0).all())

    found = np.full(len(rows), one(times, SCATTERED))
    start = 0
    for end in [*(np.flatnonzero(np.diff(rows) > 1) + 1).tolist(), len(rows)]:
        found[start:end] |= one(times[start:end], RUN)
        start = end
    return found


def alone(arrival: IntArray) -> int | None:
    """Of arrivals in order: the first or the last row, if it is so far from all others that its clock may be wrong.

    In order it may as well be right, so that only who reads leniently drops it.
    """
    if len(arrival) < LEAST:
        return None
    for row, gap, rest in (
        (0, arrival[1] - arrival[0], arrival[-1] - arrival[1]),
        (len(arrival) - 1, arrival[-1] - arrival[-2], arrival[-2] - arrival[0]),
    ):
        if gap > max(LONELY_NS, LONELY_SPANS * int(rest)):
            return row
    return None


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
