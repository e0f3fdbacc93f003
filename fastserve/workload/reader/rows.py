"""Rows: the typed rows of a file, validated part by part; memory is that of the numbers kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastserve.workload.errors import TraceError
from fastserve.workload.reader.block_ids import Blocks, IdCells
from fastserve.workload.reader.columns import TEXTS, Columns
from fastserve.workload.reader.dates import Dates, looks_like_time, not_read
from fastserve.workload.reader.order import alone, examine
from fastserve.workload.reader.parse import Fault, Numbers, counts, is_absent, is_empty, times
from fastserve.workload.reader.table import Table
from fastserve.workload.reader.waiting import NOT_GIVEN, WAITING, Waiting, WaitingCells
from fastserve.workload.trace import NS, IntArray

MOST_BAD = 0.05
"""Share of the rows that a lenient read may drop, and of the cells of an optional column that may be unreadable. More
is no matter of single rows: the file is read wrongly. One row alone may always go."""

REQUIRED = ("arrival", "prompt", "output")
_OPTIONAL_COUNTS = {"priority": -(2**31), "max_tokens": -1, "guess": 0}
"""Optional integer columns -> the least value allowed; a max_tokens of -1 is no limit."""
_WELL = frozenset({"ok", "success", "completed"})
"""A status of a request that did not fail."""
_TARGETS = ("ttft_slo", "tpot_slo", "e2e_slo")


class Bad(NamedTuple):
    """Unreadable cells of an optional column."""

    cells: int
    line: int
    message: str


class Rows:
    """Typed columns, validation faults by line, and counts of dropped rows."""

    def __init__(self, path: str, columns: Columns, unit: str, dates: Dates | None, lenient: bool) -> None:
        self.path = path
        self._from = path  # the file of the present part
        self.columns = columns
        self.unit = unit
        self.dates = dates
        self.lenient = lenient
        self.failed = 0
        self.dropped: Counter[str] = Counter()
        self.reasons: dict[str, tuple[int, str]] = {}
        """Of dropped rows, by reason: line and message of the first."""
        self.bad: dict[str, Bad] = {}
        self.count = 0
        self.sorted = True
        """Whether the arrivals so far never decrease."""
        self.last = -(2**63)
        """ns: the last of them."""
        self.seen: dict[str, None] = {}
        """Columns in the order in which they came."""
        self.wrong = 0
        self._parts: dict[str, list[tuple[int, IntArray]]] = {}
        self._texts: dict[str, list[str]] = {}
        self._known: dict[str, dict[object, str]] = {field: {} for field in TEXTS}
        self.ids = IdCells()
        self._lines: list[tuple[int, Sequence[int]]] = []
        self._marks = "" if columns.format is None else columns.format.failed
        self.waits = WaitingCells() if columns.waits else None

    def add(self, table: Table) -> npt.NDArray[np.int64] | None:
        """Takes in a part. Strict: TraceError at its first invalid row. Returns the arrivals of the rows kept."""
        self._from = table.path
        self.seen |= dict.fromkeys(table.names)
        self.columns.extended(table.names, table.path)
        faults: dict[int, Fault] = {}
        numbers = {field: self._required(table, field) for field in REQUIRED if field in self.columns.names}
        for one in reversed(numbers.values()):
            faults.update(one.faults)
        good = np.ones(len(table), bool)
        failed = self._failed(table, numbers["output"].values, faults)
        if failed is not None:
            self.failed += int(failed.sum())
            good &= ~failed
            for row in np.flatnonzero(failed).tolist():
                faults.pop(row, None)
            for row in np.flatnonzero(good & (numbers["prompt"].values == 0)).tolist():
                faults.setdefault(row, Fault("zero", "prompt tokens are 0 in a request that did not fail"))
        good[list(faults)] = False
        self._drop([*table.broken, *((int(table.lines[row]), fault) for row, fault in faults.items())])
        keep = np.flatnonzero(good)
        self._take_waiting(table, keep)
        kept = {field: one.values[keep] if len(keep) < len(table) else one.values for field, one in numbers.items()}
        for field, values in kept.items():
            self._parts.setdefault(field, []).append((self.count, values))
        self._optional(table, keep)
        every = len(keep) == len(table)
        self._lines.append((self.count, table.lines if every else _picked(table.lines, keep)))
        self.count += len(keep)
        arrival = kept.get("arrival")
        if arrival is not None and len(arrival):
            self.sorted &= bool(arrival[0] >= self.last and (np.diff(arrival) >= 0).all())
            self.last = int(arrival[-1])
        return arrival

    @property
    def timed(self) -> bool:
        """Whether every row so far has an arrival of its own."""
        return self.waits is None or self.waits.timed

    def ordered(self) -> tuple[npt.NDArray[np.intp] | None, str | None]:
        """(which rows in which order, None for all as they are; what was done, for a note).

        Strict: TraceError at a row whose clock is wrong; lenient: it is dropped. Other rows are sorted.
        """
        if "arrival" not in self._parts:
            return None, None
        if self.sorted:
            return self._alone()
        arrival = self.joined("arrival", keep=True)
        order = examine(arrival)
        self._drop_wrong(order.wrong.tolist(), [_clock_fault(apart) for apart in order.apart.tolist()])
        rows = np.delete(np.arange(self.count), order.wrong)
        if not order.moved:
            return rows, None
        rows = rows[np.argsort(arrival[rows], kind="stable")]
        moved = f"{order.moved:,} of {self.count:,} rows stood out of order"
        why = "in a file merged of several" if order.merged else "rows that were written late"
        return rows, f"sorted by arrival: {moved}, as {why}"

    def _alone(self) -> tuple[npt.NDArray[np.intp] | None, str | None]:
        """The first or last row, in order but far from all others: told, and dropped by a lenient read."""
        arrival = self.joined("arrival", keep=True) if self.count else np.empty(0, np.int64)
        row = alone(arrival)
        if row is None:
            return None, None
        gap = int(arrival[1] - arrival[0] if row == 0 else arrival[-1] - arrival[-2]) / NS
        message = (
            f"the {'first' if row == 0 else 'last'} request (line {self.line(row):,}) comes {gap:,.4g} s "
            f"{'before' if row == 0 else 'after'} all others, which come within "
            f"{int(arrival[-1] - arrival[1] if row == 0 else arrival[-2] - arrival[0]) / NS:,.4g} s"
        )
        if not self.lenient:
            return None, f"{message}: if its clock is wrong, --lenient drops it"
        self._drop_wrong([row], [Fault("unsorted", message)])
        return np.delete(np.arange(self.count), row), None

    def _drop_wrong(self, rows: list[int], faults: list[Fault]) -> None:
        """Drops rows that were kept and whose clocks are wrong."""
        self.wrong = len(rows)
        self._drop([(self.line(row), fault) for row, fault in zip(rows, faults, strict=True)])

    def settle(self) -> None:
        """Checks what is left and what a lenient read has dropped."""
        total = self.count - self.wrong + sum(self.dropped.values())
        dropped = sum(self.dropped.values())
        if not self.count:
            left = ", ".join(f"{n} {reason}" for reason, n in self.all_dropped().items())
            raise TraceError(f"the file holds no usable request{f' (dropped: {left})' if left else ''}", self.path)
        if dropped > max(1, MOST_BAD * total):
            first = "; ".join(
                f"{n:,} {reason} (the first in line {self.reasons[reason][0]:,}: {self.reasons[reason][1]})"
                for reason, n in self.dropped.most_common()
            )
            raise TraceError(
                f"--lenient would drop {dropped:,} of {total:,} rows ({100 * dropped / total:.0f} %): {first}. It "
                f"drops up to {100 * MOST_BAD:.0f} %, for more is no matter of single rows: name the right columns and "
                "units with --columns, or take these rows out of the file",
                self.path,
            )

    def all_dropped(self) -> dict[str, int]:
        failed = {"failed": self.failed} if self.failed else {}
        return failed | {reason: n for reason, n in self.dropped.items() if n}

    def joined(self, field: str, keep: bool = False) -> IntArray:
        """One array of all rows; zeros where a part had no such column. keep: it will be asked for again."""
        parts = self._parts[field]
        if len(parts) > 1 or len(parts[0][1]) < self.count:
            whole = np.zeros(self.count, np.int64)
            for start, values in parts:
                whole[start : start + len(values)] = values
            parts = [(0, whole)]
        if keep:
            self._parts[field] = parts
        else:
            del self._parts[field]
        return parts[0][1]

    def fields(self) -> list[str]:
        """Those of numbers that are there, unreadable optional ones left out."""
        return [field for field in self._parts if not self.unreadable(field)]

    def texts(self, field: str) -> list[str] | None:
        found = self._texts.pop(field, None)
        return None if found is None else found + [""] * (self.count - len(found))

    def unreadable(self, field: str) -> bool:
        """Whether so many cells of an optional column cannot be read that it is left out."""
        return field in self.bad and self.bad[field].cells > max(
            1, MOST_BAD * (self.count + sum(self.dropped.values()))
        )

    def blocks(self, prompt: IntArray) -> Blocks | str | None:
        """None when the file has none; why, when they cannot be used."""
        if self.unreadable("hash_ids"):
            return None
        return self.ids.blocks(self.count, prompt, None if self.columns.format is None else self.columns.format.block)

    def line(self, row: int) -> int:
        """The line of a row that was kept."""
        start, lines = next(part for part in reversed(self._lines) if part[0] <= row)
        return int(lines[row - start])

    def _required(self, table: Table, field: str) -> Numbers:
        names = self.columns.names[field]
        if field == "arrival":
            cells = table.get(names[0])
            if self.waits is not None:
                cells = self.waits.filled(cells)
            found = times(cells, "arrival", self.unit) if self.dates is None else self.dates.ns(cells, "arrival")
            if self.dates is None and found.faults:
                return Numbers(found.values, {row: _dated(cells[row], fault) for row, fault in found.faults.items()})
            return found
        what = f"{field} tokens"
        least = 0 if self._marks or len(names) > 1 else 1
        parts = [counts(table.get(name), what, least) for name in names]
        if len(parts) == 1:
            return parts[0]
        total = np.sum([part.values for part in parts], axis=0)
        faults = {
            row: Fault("zero", f"{what}: 0, but the least allowed is 1") for row in np.flatnonzero(total == 0).tolist()
        }
        for part in parts:
            faults.update(part.faults)
        return Numbers(total, faults)

    def _failed(self, table: Table, output: IntArray, faults: dict[int, Fault]) -> npt.NDArray[np.bool_] | None:
        """Rows that the format marks as requests that failed: no mistakes, and no requests of the workload either."""
        if self._marks == "output":
            failed: npt.NDArray[np.bool_] = output == 0
            failed[list(faults)] = False
            return failed
        if self._marks == "status":
            failed = np.array([str(cell).strip().lower() not in _WELL for cell in table.get("status")], bool)
            for row in np.flatnonzero(~failed & (output == 0)).tolist():
                faults.setdefault(row, Fault("zero", "output tokens: 0, but the least allowed is 1"))
            return failed
        return None

    def _optional(self, table: Table, keep: npt.NDArray[np.intp]) -> None:
        names = self.columns.names
        for field, least in _OPTIONAL_COUNTS.items():
            if field in names:
                cells = table.get(names[field][0])
                found = counts(cells, field, least, absent=0)
                values = found.values
                if field == "max_tokens":
                    values = np.where(values == -1, 0, values)
                if field == "guess":  # a predicted length of 0 would read as "no guess"
                    given = np.array([not is_absent(cell) for cell in cells], bool)
                    values = np.where(given, np.maximum(values, 1), 0)
                self._take(field, Numbers(values, found.faults), table, keep)
        for field in _TARGETS:
            if field in names:
                cells = table.get(names[field][0])
                self._take(field, times(cells, field, self.columns.units[field], absent=0), table, keep)
        for field in TEXTS & names.keys():
            self._take_texts(field, table, keep)
        if "hash_ids" in names:
            self._take_ids(table, keep)
        if "block_size" in names:
            self.ids.add_sizes(table.get(names["block_size"][0]))

    def _take(self, field: str, found: Numbers, table: Table, keep: npt.NDArray[np.intp], absent: int = 0) -> None:
        values = found.values
        if found.faults:
            values = values.copy()
            values[list(found.faults)] = absent
            row = min(found.faults)
            self._tell_bad(field, len(found.faults), int(table.lines[row]), found.faults[row].message)
        self._parts.setdefault(field, []).append((self.count, values[keep]))

    def _take_texts(self, field: str, table: Table, keep: npt.NDArray[np.intp]) -> None:
        known = self._known[field]
        columns = [table.get(name) for name in self.columns.names[field]]
        texts = self._texts.setdefault(field, [])
        texts += [""] * (self.count - len(texts))
        cells = columns[0] if len(columns) == 1 else map(_first_filled, zip(*columns, strict=True))
        chosen = list(cells) if len(keep) == len(table) else list(compress(cells, _mask(keep, len(table))))
        for cell in chosen:
            text = cell.strip() if isinstance(cell, str) else "" if cell is None else str(cell).strip()
            texts.append(known.setdefault(text, text))

    def _take_ids(self, table: Table, keep: npt.NDArray[np.intp]) -> None:
        bad = self.ids.add(table.get(self.columns.names["hash_ids"][0]), keep, self.count, self._kin(len(keep)))
        for row in bad:
            message = "hash_ids must be a list of whole numbers or hex texts"
            self._tell_bad("hash_ids", 1, int(table.lines[row]), message)

    def _kin(self, new: int) -> list[tuple[str, str]]:
        """Of the newest rows: what the row whose ids each may repeat is called, and what it is called itself."""
        named = self.waits.named if self.waits is not None and "id" in self._texts else None
        texts = self._texts.get("id" if named is not None else "program", [])
        names = texts[len(texts) - new :] if len(texts) >= new else [""] * new
        if named is None:
            return [(name, name) for name in names]
        return [
            (before[0] if before else "", name) for before, name in zip(named[len(named) - new :], names, strict=True)
        ]

    def _take_waiting(self, table: Table, keep: npt.NDArray[np.intp]) -> None:
        if self.waits is None:
            return
        for field, found in self.waits.numbers(table, self.columns):
            self._take(field, found, table, keep, absent=NOT_GIVEN)
        for row in self.waits.add(table, self.columns, keep, self.count):
            self._tell_bad("after", 1, int(table.lines[row]), "after: this names no rows")

    def waiting(self, arrival: IntArray | None) -> Waiting:
        """What the file says of which row waits for which. arrival: ns; None where no row has one."""
        assert self.waits is not None
        found = {field: self.joined(field) if field in self.fields() else None for field in WAITING}
        dropped = sum(self.dropped.values()) + self.failed
        return self.waits.of(
            np.zeros(self.count, np.int64) if arrival is None else arrival,
            self.texts("program"),
            self.texts("id"),
            [self.line(row) for row in range(self.count)] if dropped else None,
            **found,
        )

    def _tell_bad(self, field: str, cells: int, line: int, message: str) -> None:
        had = self.bad.get(field)
        self.bad[field] = Bad(cells, line, message) if had is None else had._replace(cells=had.cells + cells)

    def _drop(self, bad: list[tuple[int, Fault]]) -> None:
        if not bad:
            return
        if not self.lenient:
            line, fault = min(bad)
            message = f"{fault.message}. Correct the row, or drop such rows with --lenient (lenient=True)"
            raise TraceError(message, self._from, line)
        for line, fault in sorted(bad):
            self.dropped[fault.reason] += 1
            self.reasons.setdefault(fault.reason, (line, fault.message))


def _clock_fault(apart: int) -> Fault:
    """apart: as in Order."""
    where = "after the one below it" if apart > 0 else "before the one above it"
    return Fault(
        "unsorted", f"the request arrives {where}, by {abs(apart) / NS:,.4g} s, where the rows around are in order"
    )


def _first_filled(cells: tuple[object, ...]) -> object:
    return next((cell for cell in cells if not is_empty(cell)), None)


def _mask(keep: npt.NDArray[np.intp], rows: int) -> list[bool]:
    mask = np.zeros(rows, bool)
    mask[keep] = True
    return mask.tolist()


def _picked(lines: Sequence[int], keep: npt.NDArray[np.intp]) -> Sequence[int]:
    if isinstance(lines, range):
        return (keep + lines.start).astype(np.int32)  # type: ignore[return-value]  # an array is one for our purpose
    return [lines[row] for row in keep.tolist()]


def _dated(cell: object, fault: Fault) -> Fault:
    """Says which dates are read where the cell seems to be one."""
    if fault.reason != "not a number" or not looks_like_time(cell):
        return fault
    return not_read(cell, "arrival")
