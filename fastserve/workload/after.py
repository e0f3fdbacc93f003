"""Which request of a trace waits for which: the columns `after` and `think`, checked, kept valid and put into order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fastserve.workload.errors import TraceError

After: TypeAlias = list[tuple[int, ...]]
"""By row: the rows that must have ended before it comes; () is a root."""


def check_after(after: Sequence[Sequence[int]], program: Sequence[str] | None) -> None:
    """TraceError unless every row waits for earlier rows only, all of its own program."""
    for row, before in enumerate(after):
        for other in before:
            if other == row:
                raise TraceError(f"row {row} waits for itself in `after`; name the row before it, or none for a root")
            if not 0 <= other < len(after):
                raise TraceError(f"row {row} waits for row {other} in `after`; rows are 0 to {len(after) - 1}")
            if other > row:
                raise TraceError(
                    f"row {row} waits for row {other}, which comes later: in a trace every row of `after` is earlier; "
                    "sort the rows so that each follows what it waits for (of a cycle no order does)"
                )
            if program is not None and program[other] != program[row]:
                raise TraceError(
                    f"row {row} of program {program[row]!r} waits for row {other} of program {program[other]!r}; "
                    "requests that wait for one another are of one program"
                )


def programs_of(after: Sequence[Sequence[int]]) -> list[str]:
    """A name for each row, the same for all that wait for one another: p0, p1, ... in order of their first rows."""
    leader = list(range(len(after)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    for row, before in enumerate(after):
        for other in before:
            one, two = find(row), find(other)
            leader[max(one, two)] = min(one, two)
    names: dict[int, str] = {}
    return [names.setdefault(find(row), f"p{len(names)}") for row in range(len(after))]


def programs_named(after: Sequence[Sequence[int]], program: Sequence[str] | None) -> list[str]:
    """These names, and one for rows that wait for one another and name no program."""
    made = programs_of(after)
    if program is None:
        return made
    known, count = set(program), Counter(made)
    found = list(program)
    for row, name in enumerate(made):
        if not found[row] and count[name] > 1:
            while name in known:
                name += "'"
            found[row] = name
    return found


Index: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.intp]


def can_come(after: Sequence[tuple[int, ...]], index: Index) -> npt.NDArray[np.bool_]:
    """Which of the rows in `index` wait, directly or not, only for rows that are in it too."""
    there = np.zeros(len(after), np.bool_)
    there[index] = True
    found: list[bool] = there.tolist()
    for row, before in enumerate(after):
        found[row] = found[row] and all(found[other] for other in before)
    return np.array(found)[index]


def taken(after: Sequence[tuple[int, ...]], index: Index) -> After:
    """`after` of the rows in `index` by their new places. TraceError where it lacks what one of them waits for."""
    if len(np.unique(index)) < len(index):
        raise TraceError("a row that waits for others is taken twice; fastserve.workload.programs repeats programs")
    place = {row: new for new, row in enumerate(index.tolist())}
    found: After = []
    for row in place:
        try:
            found.append(tuple([place[other] for other in after[row]]))
        except KeyError as lacks:
            raise TraceError(f"row {row} waits for row {lacks}, which is not taken; take whole programs") from None
    return found


def causal_order(arrival: Sequence[int], after: Sequence[Sequence[int]]) -> list[int]:
    """Rows by arrival, but each behind all that it waits for; rows of equal arrival in the order given.

    TraceError names a row that waits for itself, directly or through others.
    """
    waiting = [len(set(before)) for before in after]
    followers: list[list[int]] = [[] for _ in after]
    for row, before in enumerate(after):
        for other in set(before):
            followers[other].append(row)
    ready = [(arrival[row], row) for row, left in enumerate(waiting) if not left]
    heapify(ready)
    order: list[int] = []
    while ready:
        _, row = heappop(ready)
        order.append(row)
        for other in followers[row]:
            waiting[other] -= 1
            if not waiting[other]:
                heappush(ready, (arrival[other], other))
    if len(order) < len(after):
        stuck = min(set(range(len(after))) - set(order))
        raise TraceError(f"row {stuck} waits for itself, directly or through others; of a cycle nothing can ever come")
    return order


def earliest(
    arrival: npt.NDArray[np.int64], after: Sequence[Sequence[int]], think: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Arrivals of rows in causal order if answers took no time: those of roots as given, think times after the rest."""
    times: list[int] = arrival.tolist()
    thinks: list[int] = think.tolist()
    for row, before in enumerate(after):
        if before:
            times[row] = max(times[other] for other in before) + thinks[row]
    return np.array(times, np.int64)
