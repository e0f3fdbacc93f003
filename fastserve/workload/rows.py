"""Rows: the typed rows of a request table, validated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastserve.workload.columns import Columns, plain
from fastserve.workload.errors import TraceError
from fastserve.workload.parse import Fault, Numbers, counts, dates, is_date, times
from fastserve.workload.table import Table
from fastserve.workload.trace import IntArray

_OPTIONAL_COUNTS = {"priority": -(2**31), "max_tokens": 1, "guess": 0}
"""Optional integer columns -> the least value allowed."""


class Blocks(NamedTuple):
    """The prompts' block ids, row by row, and the tokens per block."""

    ids: list[list[int]]
    size: int


class Rows:
    """Typed columns of a table, validation faults by row, and counts of dropped rows."""

    def __init__(self, table: Table, columns: Columns) -> None:
        self.table = table
        self.columns = columns
        self.dropped: Counter[str] = Counter()
        names = {plain(name) for name in table.names}
        # BurstGPT marks a request that failed by an output of 0 tokens; the row is no mistake, and no request either.
        self.marks_failures = {"requesttokens", "responsetokens", "totaltokens"} <= names
        self.numbers: dict[str, Numbers] = {}
        if "arrival" in columns.names:
            self.numbers["arrival"] = self._arrivals(self._cells("arrival"))
        least = 0 if self.marks_failures else 1
        self.numbers["prompt"] = counts(self._cells("prompt"), "prompt tokens", least)
        self.numbers["output"] = counts(self._cells("output"), "output tokens", least)
        for field, low in _OPTIONAL_COUNTS.items():
            if field in columns.names:
                self.numbers[field] = counts(self._cells(field), field, low, absent=0)
        for field in ("ttft_slo", "tpot_slo", "e2e_slo"):
            if field in columns.names:
                self.numbers[field] = times(self._cells(field), field, columns.units[field], absent=0)
        if "guess" in self.numbers:  # a predicted length of 0 would read as "no guess"
            given = np.array([cell not in (None, "") for cell in self._cells("guess")], bool)
            values, faults = self.numbers["guess"]
            self.numbers["guess"] = Numbers(np.where(given, np.maximum(values, 1), 0), faults)

    def usable(self, lenient: bool) -> npt.NDArray[np.intp]:
        """Indices of the valid rows. Strict: TraceError at the first invalid one. Lenient: drops and counts them."""
        table, faults = self.table, {}
        for numbers in reversed(self.numbers.values()):
            faults.update(numbers.faults)
        good = np.ones(len(table), bool)
        if self.marks_failures and len(table):
            failed = self.numbers["output"].values == 0
            failed[list(faults)] = False
            self.dropped["failed"] = int(failed.sum())
            good &= ~failed
            for row in np.flatnonzero(good & (self.numbers["prompt"].values == 0)).tolist():
                faults.setdefault(row, Fault("zero", "prompt tokens are 0 in a request that did not fail"))
        if "hash_ids" in self.columns.names:
            for row, ids in enumerate(self._cells("hash_ids")):
                if ids is not None and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
                    faults.setdefault(row, Fault("malformed", "hash_ids must be a list of whole numbers"))
        good[list(faults)] = False
        if "arrival" in self.numbers:
            kept = np.flatnonzero(good)
            arrival = self.numbers["arrival"].values[kept]
            for row in kept[arrival < np.maximum.accumulate(arrival)].tolist():
                faults[row] = Fault("unsorted", "the request arrives before the one above it; sort the rows by arrival")
                good[row] = False
        bad = sorted([*table.broken, *((table.lines[row], fault) for row, fault in faults.items())])
        if bad and not lenient:
            line, fault = bad[0]
            raise TraceError(
                f"{fault.message}. Correct the row, or drop such rows with --lenient (lenient=True)", table.path, line
            )
        self.dropped.update(fault.reason for _, fault in bad)
        self.dropped = +self.dropped
        if not good.any():
            left = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items())
            raise TraceError(f"the file holds no usable request{f' (dropped: {left})' if left else ''}", table.path)
        return np.flatnonzero(good)

    def texts(self, field: str, positions: Sequence[int]) -> list[str] | None:
        if field not in self.columns.names:
            return None
        cells = self._cells(field)
        return ["" if cells[i] is None else str(cells[i]).strip() for i in positions]

    def blocks(self, positions: Sequence[int], prompt: IntArray, lenient: bool) -> Blocks | None:
        """None when the file has none, or none that a lenient read can use."""
        if "hash_ids" not in self.columns.names:
            return None
        cells = self._cells("hash_ids")
        ids: list[list[int]] = [list(cells[i] or ()) for i in positions]  # type: ignore[call-overload]
        if "block_size" in self.columns.names:
            sizes = [cell for cell in self._cells("block_size") if cell is not None]
            size = sizes[0] if sizes else None
            if isinstance(size, int) and size > 0 and sizes == [size] * len(sizes):
                return Blocks(ids, size)
            raise TraceError("block_size must be one positive whole number, the same in every row", self.table.path)
        held = np.array([len(row) for row in ids], np.int64)
        for usual in (512, 16, 64, 128, 256, 32):
            if bool(((held == 0) | (held == -(-prompt // usual))).all()):
                return Blocks(ids, usual)
        if lenient:
            self.dropped["hash_ids of unknown block size (column left out)"] = len(ids)
            return None
        raise TraceError(
            "the number of hash_ids fits no usual block size; add a block_size to the rows, or leave the ids out with "
            "--lenient (lenient=True)",
            self.table.path,
        )

    def _cells(self, field: str) -> Sequence[object]:
        return self.table[self.columns.names[field]]

    def _arrivals(self, cells: Sequence[object]) -> Numbers:
        if any(is_date(cell) for cell in cells[:10]):
            return dates(cells, "arrival")
        return times(cells, "arrival", self.columns.units["arrival"])
