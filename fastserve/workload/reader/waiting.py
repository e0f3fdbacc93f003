"""Which row of a file waits for which: from the columns that say so, whatever the project calls them.

A row names the rows before it (`after`, a parent), or it is the next of its program: by turn where there is one, else
by time. The think time before it is given, or is what lies between the end of those rows and its own arrival.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fastserve.workload.after import After, causal_order, programs_of
from fastserve.workload.reader.columns import Columns
from fastserve.workload.reader.parse import LATEST, Cells, Fixed, Numbers, counts, is_absent, times
from fastserve.workload.reader.table import Table
from fastserve.workload.trace import IntArray

NOT_GIVEN = LATEST
"""Stands for a think time or duration that a row does not give."""

WAITING = ("think", "duration", "turn")
"""Fields of numbers."""

_ROOT = frozenset({"-1", "root", "nan", "none", "null", ""})

LOOKED_AT, HABIT = 100_000, 0.1
"""Rows that are searched for rounds of sessions at one instant, and the share of them from which they are told."""


def references(cell: object) -> list[str] | None:
    """The rows or ids that a cell of `after` or of a parent names, none for a root; None if it cannot be read."""
    if is_absent(cell):
        return []
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    if isinstance(cell, list | tuple):
        names = [str(one).strip() for one in cell if not is_absent(one)]
    elif isinstance(cell, str):
        names = [name.strip() for name in re.split(r"[;|,]", cell)]
    elif isinstance(cell, bool) or not isinstance(cell, int | np.integer):
        return None
    else:
        names = [str(cell)]
    return [name for name in names if name.lower() not in _ROOT]


class WaitingCells:
    """The cells that say it, taken in part by part.

    named: by row, where a column names rows. timed: whether every row has an arrival of its own.
    """

    def __init__(self) -> None:
        self.named: list[list[str]] | None = None
        self.timed = True
        self._empty: list[npt.NDArray[np.bool_]] = []  # by row: whether it has no arrival
        self._latest: object = 0  # the last arrival that a row gave
        self._new = np.empty(0, bool)
        self._first: int | None = None  # line of the first row

    def filled(self, arrival: Cells) -> Cells:
        """Arrivals with the last one above in place of those that are empty."""
        self._new = np.zeros(len(arrival), bool)
        if isinstance(arrival, Fixed | np.ndarray):
            return arrival
        found: list[object] = []
        for row, cell in enumerate(arrival):
            if is_absent(cell):
                self._new[row] = True
            else:
                self._latest = cell
            found.append(self._latest)
        return found

    @staticmethod
    def numbers(table: Table, columns: Columns) -> Iterator[tuple[str, Numbers]]:
        """The columns of numbers, by field; NOT_GIVEN where a row has none."""
        for name in WAITING:
            if name in columns.names:
                cells = table.get(columns.names[name][0])
                if name == "turn":
                    yield name, counts(cells, name, 0, absent=0)
                else:
                    yield name, times(cells, name, columns.units[name], absent=NOT_GIVEN)

    def add(self, table: Table, columns: Columns, keep: npt.NDArray[np.intp], before: int) -> list[int]:
        """The rest, of the rows kept, behind `before` others. Returns rows whose cells cannot be read."""
        empty = self._new[keep] if "arrival" in columns.names else np.ones(len(keep), bool)
        self._empty.append(empty)
        self.timed &= not empty.any()
        if self._first is None and len(table):
            self._first = int(table.lines[0])
        if "after" not in columns.names:
            return []
        self.named = self.named if self.named is not None else []
        self.named += [[]] * (before - len(self.named))
        cells = table.get(columns.names["after"][0])
        found = [references(cells[row]) for row in keep.tolist()]
        self.named += [names or [] for names in found]
        return [row for row, names in zip(keep.tolist(), found, strict=True) if names is None]

    def of(
        self, arrival: IntArray, program: list[str] | None, ids: list[str] | None, lines: list[int] | None,
        **numbers: Any,
    ) -> Waiting:  # fmt: skip
        """All of it. lines: of the rows, where some of the file's were dropped."""
        first = self._first or 0
        return Waiting(
            arrival,
            ~np.concatenate(self._empty),
            program=program,
            ids=ids,
            named=self.named,
            numbers=None if lines is None else [line - first for line in lines],
            **numbers,
        )


@dataclass(slots=True)
class Waiting:
    """What the rows of a file say, by row, in the order of the file."""

    arrival: IntArray
    """ns"""
    recorded: npt.NDArray[np.bool_]
    """Whether the row has an arrival of its own."""
    program: list[str] | None = None
    ids: list[str] | None = None
    """Names of the rows, by which `named` refers to them; None: it has numbers of rows, from 0."""
    named: list[list[str]] | None = None
    """The rows that each one says it waits for."""
    think: IntArray | None = None
    """ns; NOT_GIVEN where a row has none."""
    turn: IntArray | None = None
    duration: IntArray | None = None
    """ns that it took to answer the row when it was recorded."""
    numbers: list[int] | None = None
    """The row numbers of the file, where some rows of it were dropped."""
    notes: list[str] = field(default_factory=list)

    def settled(self) -> Settled:
        """Raises TraceError for rows that wait for themselves."""
        after = self._by_turns() if self.named is None else self._by_name(self.named)
        order = causal_order(self.arrival.tolist(), after)
        program = self._programs(after)
        think = self._think(after)
        arrival = self._arrivals(after, think, order)
        order = causal_order(arrival.tolist(), after)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        places = place.tolist()
        index = np.array(order, np.intp)
        first = arrival.min()
        return Settled(
            index,
            arrival[index] - first,
            [tuple(places[other] for other in after[row]) for row in order],
            think[index],
            [program[row] for row in order],
            int(first),
        )

    def _by_name(self, named: Sequence[Sequence[str]]) -> After:
        place: dict[str, int] = {}
        names = self.ids if self.ids is not None else map(str, self.numbers or range(len(named)))
        for row, name in enumerate(names):
            place.setdefault(name, row)
        lost = 0
        after: After = []
        for before in named:
            there = tuple(dict.fromkeys(place[name] for name in before if name in place))
            lost += len(there) < len(set(before))
            after.append(there)
        if lost:
            self.notes.append(f"{lost:,} requests name one to wait for that is not in the file, and do not wait for it")
        return after

    def _by_turns(self) -> After:
        """Each the next of its program; a row with an arrival and no think time, where others have one, is a root."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(self.program or ()):
            if name:
                rows[name].append(row)
        after: After = [()] * len(self.arrival)
        arrival: list[int] = self.arrival.tolist()
        for turns in rows.values():
            if self.turn is not None:
                turns.sort(key=lambda row: (int(self.turn[row]), row))  # type: ignore[index]
            else:
                turns.sort(key=lambda row: (arrival[row], row))
            if self.duration is not None and self.think is None:
                ends = [arrival[row] + int(self.duration[row]) % NOT_GIVEN for row in turns]
                self._by_intervals(turns, arrival, ends, after)
                continue
            for before, row in pairwise(turns):
                given = self.think is None or self.think[row] != NOT_GIVEN
                if given or not self.recorded[row]:
                    after[row] = (before,)
        return after

    @staticmethod
    def _by_intervals(turns: list[int], arrival: list[int], ends: list[int], after: After) -> None:
        for at, before in enumerate(frontiers([arrival[row] for row in turns], ends)):
            after[turns[at]] = tuple(turns[other] for other in before)

    def _programs(self, after: After) -> list[str]:
        if self.program is not None:
            return self.program
        groups = programs_of(after)
        if self.ids is None:
            return groups
        first: dict[str, str] = {}
        for group, name in zip(groups, self.ids, strict=True):
            first.setdefault(group, name)
        return [first[group] for group in groups]

    def _think(self, after: After) -> IntArray:
        """Given before the row, or after those that it waits for, or as recorded between them; 0 for roots."""
        found = np.zeros(len(after), np.int64)
        arrival: list[int] = self.arrival.tolist()
        ends = arrival
        if self.duration is not None:
            ends = (self.arrival + self.duration % NOT_GIVEN).tolist()
        guessed = 0
        for row, before in enumerate(after):
            if not before:
                continue
            if self.think is not None and self.think[row] != NOT_GIVEN:
                found[row] = self.think[row]
            elif self.recorded[row]:
                found[row] = max(0, arrival[row] - max(ends[other] for other in before))
                guessed += self.duration is None
        if guessed:
            self.notes.append(
                "think times are the recorded gaps between arrivals: the time that the answer before took is in them, "
                "for the file does not tell it"
            )
        return found

    def _arrivals(self, after: After, think: IntArray, order: list[int]) -> IntArray:
        """Recorded ones, none before what the row waits for; of the rest as if answers took no time."""
        times: list[int] = self.arrival.tolist()
        thinks: list[int] = think.tolist()
        recorded = self.recorded.tolist()
        for row in order:
            if after[row]:
                before = max(times[other] for other in after[row])
                times[row] = max(times[row], before) if recorded[row] else before + thinks[row]
        return np.array(times, np.int64)


@dataclass(frozen=True, slots=True)
class Settled:
    """Columns of a trace, in order of arrival."""

    order: npt.NDArray[np.intp]
    """The rows of the file."""
    arrival: IntArray
    after: After
    think: IntArray
    program: list[str]
    first: int
    """ns: the first arrival as it was in the file."""


def frontiers(starts: Sequence[int], ends: Sequence[int], slack: int = 0) -> list[list[int]]:
    """For requests in order of their starts: those that had ended by then and that nobody waited for before; where
    there is none, the last to have ended. slack: ns by which an end may be late, where times are rounded.
    """
    found: list[list[int]] = []
    running: list[tuple[int, int]] = []  # (end, row)
    latest: list[int] = []  # the last to have ended
    for row, start in enumerate(starts):
        done: list[int] = []
        while running and running[0][0] <= start + slack:
            done.append(heappop(running)[1])
        if done:
            latest = done[-1:]
        found.append(done or latest)
        heappush(running, (ends[row], row))
    return found


def rounds_at_once(arrival: IntArray, program: Sequence[str]) -> int:
    """Requests that come at the very instant of an earlier one of their program; 0 where they are no habit."""
    looked_at = min(len(program), LOOKED_AT)
    last: dict[str, int] = {}
    rounds = 0
    for time, name in zip(arrival[:looked_at].tolist(), program[:looked_at], strict=True):
        rounds += bool(name) and last.get(name) == time
        last[name] = time
    return rounds if rounds >= HABIT * looked_at else 0
