"""File: a table of requests on its way to a Trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from fastserve.workload.arrivals import EXAMPLES, arrival_times
from fastserve.workload.errors import TraceError
from fastserve.workload.reader import probe, units
from fastserve.workload.reader.columnar import Columnar
from fastserve.workload.reader.columns import TEXTS, Columns, shown
from fastserve.workload.reader.csv_rows import CsvRows
from fastserve.workload.reader.dates import Dates, is_date
from fastserve.workload.reader.json_rows import JsonRows
from fastserve.workload.reader.parse import Cells, Fixed, times
from fastserve.workload.reader.rounds import Rounds
from fastserve.workload.reader.rows import Rows
from fastserve.workload.reader.source import Source
from fastserve.workload.reader.table import Table, Tables
from fastserve.workload.reader.waiting import rounds_at_once
from fastserve.workload.reader.weka import Conversations
from fastserve.workload.reading import Reading
from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import NS, IntArray, Trace, check_window


class Stop:
    """Whether the rows read so far hold the window and the first requests that are asked for."""

    def __init__(self, num_requests: int | None, start_s: float, duration_s: float | None) -> None:
        check_window(start_s, duration_s)
        self.num_requests = num_requests
        self.start = round(Fraction(start_s) * NS)
        self.end = None if duration_s is None else self.start + round(Fraction(duration_s) * NS)
        self.found = 0
        self.begin: int | None = None

    def reached(self, arrival: IntArray | None) -> bool:
        """arrival: of the next rows, which are in order."""
        if arrival is None or not len(arrival) or (self.num_requests is None and self.end is None):
            return False
        self.begin = int(arrival[0]) if self.begin is None else self.begin
        self.found += len(arrival) - int(np.searchsorted(arrival, self.begin + self.start))
        if self.num_requests is not None and self.found >= self.num_requests:
            return True
        return self.end is not None and int(arrival[-1]) >= self.begin + self.end


@dataclass(slots=True)
class File:
    """A table of requests, on its way to a Trace."""

    source: Source | None
    """None of a folder."""
    opened: Tables
    columns: Columns
    path: str
    name: str

    def trace(
        self,
        time_unit: str | None,
        lenient: bool,
        rate: float | None,
        arrivals: str | None,
        seed: int,
        stop: Stop,
    ) -> Trace:
        names = self.columns.names
        parts = self.opened.tables(self.columns.wanted())
        first = next(parts, None)
        if first is None:
            first = Table(self.path, self.opened.names, [[] for _ in self.opened.names], [], [])
        cells = first.get(names["arrival"][0]) if "arrival" in names else []
        if len(cells) and all(cell == "XXX" for cell in cells):
            del names["arrival"]  # NanoFlow's length sets keep the Azure header and blank the times out
        timed = "arrival" in names
        self._check_arrivals(timed or self.columns.waits, rate, arrivals, time_unit)
        clock, dates = self._clock(cells, time_unit) if timed else (units.Clock("none", ""), None)
        rows = Rows(self.path, self.columns, clock.unit, dates, lenient)
        early = timed and (not self.columns.waits or not stop.start)  # what a window cuts is known when all is
        notes = self._fill(rows, first, parts, stop if early else None)
        order: npt.NDArray[np.intp] | None
        if self.columns.waits:
            columns, order, clock = self._waiting(rows, clock, notes)
        else:
            columns, order, clock = self._arrivals(rows, clock, notes, rate, arrivals, seed)
        prompt = columns["prompt"]
        blocks = rows.blocks(prompt if order is None else _unsorted(prompt, order, rows.count))
        unused = {"hash_ids": blocks} if isinstance(blocks, str) else {}
        ids, size = (None, 512) if blocks is None or isinstance(blocks, str) else blocks
        positions = None if order is None else order.tolist()
        texts = {field: _at(rows.texts(field), positions) for field in TEXTS - {"id"}}
        if timed and texts["program"] is not None and not self.columns.waits:
            notes += self._rounds(columns["arrival"], texts["program"])
        return Trace(
            name=self.name,
            source=self.path,
            hash_ids=ids if ids is None or order is None else ids.take(order),
            block_size=size,
            dropped=rows.all_dropped(),
            reading=self._reading(rows, clock, unused, size, notes),
            **(texts | columns),
        )

    def _arrivals(
        self, rows: Rows, clock: units.Clock, notes: list[str], rate: float | None, arrivals: str | None, seed: int
    ) -> tuple[dict[str, Any], npt.NDArray[np.intp] | None, units.Clock]:
        """Columns of numbers, in order of arrival, the rows of the file that they are, None for all as they are."""
        order, sorted_note = rows.ordered()
        rows.settle()
        notes += [sorted_note] if sorted_note else []
        picked: dict[str, Any] = {field: rows.joined(field) for field in rows.fields()}
        if clock.unit != "none":
            if order is not None:
                picked = {field: values[order] for field, values in picked.items()}
            arrival = picked["arrival"]
            if rows.dates is not None:
                clock = replace(clock, epoch=units.first_at(int(arrival[0])))
            arrival = arrival - arrival[0]
            tokens = int(picked["prompt"].sum() + picked["output"].sum())
            if rate is None:  # else the gaps are stretched, whatever their unit
                column = self.columns.names["arrival"][0]
                units.check(clock, len(arrival), tokens, int(arrival[-1]), self.path, column)
            clock = replace(clock, why=clock.why + units.doubt(clock, len(arrival), int(arrival[-1])))
        else:
            assert rate is not None
            streams = seed_sequence(seed).spawn(2)
            order = np.random.default_rng(streams[0]).permutation(rows.count)
            picked = {field: values[order] for field, values in picked.items()}
            arrival = arrival_times(arrivals or "poisson", rows.count, rate, streams[1])
        return picked | {"arrival": arrival}, order, clock

    def _waiting(
        self, rows: Rows, clock: units.Clock, notes: list[str]
    ) -> tuple[dict[str, Any], npt.NDArray[np.intp], units.Clock]:
        """The same of a file whose requests wait for one another, with those columns."""
        rows.settle()
        arrival = rows.joined("arrival") if "arrival" in rows.fields() else None
        waiting = rows.waiting(arrival)
        if waiting.program is None and waiting.named is None:
            waiting.program = [self.name] * rows.count
        try:
            found = waiting.settled()
        except TraceError as error:
            raise TraceError(f"{error.args[0]}", self.path) from None
        notes += waiting.notes
        if isinstance(self.opened, Rounds | Conversations):
            notes += self.opened.notes
        if rows.dates is not None:
            clock = replace(clock, epoch=units.first_at(found.first))
        picked = {field: rows.joined(field)[found.order] for field in rows.fields()}
        columns = {"arrival": found.arrival, "after": found.after, "think": found.think, "program": found.program}
        return picked | columns, found.order, clock

    def _check_arrivals(self, timed: bool, rate: float | None, arrivals: str | None, time_unit: str | None) -> None:
        if not timed and rate is None:
            raise TraceError(
                "this file has lengths but no arrival times; give --rate R (requests per second), with --arrivals "
                f"{EXAMPLES} if you like, "
                "or name the column of arrivals: --columns arrival=NAME:s",
                self.path,
            )
        if timed and arrivals is not None:
            raise TraceError("this file has its own arrival times; --arrivals is only for sets of lengths", self.path)
        if not timed and time_unit is not None:
            raise TraceError("this file has no arrival times, so there is no --time-unit to say", self.path)

    def _clock(self, cells: Cells, time_unit: str | None) -> tuple[units.Clock, Dates | None]:
        if (isinstance(cells, Fixed) and cells.dates) or any(is_date(cells[i]) for i in range(min(10, len(cells)))):
            if time_unit is not None:
                raise TraceError("the arrivals are dates, so there is no --time-unit to say", self.path)
            dates = Dates()
            wrong = None if isinstance(cells, Fixed) else dates.settle(cells)
            if wrong is not None:
                raise TraceError(f"arrival: {wrong}", self.path)
            return units.Clock("date", "without a zone taken as UTC"), dates
        told: units.Clock | None = None
        if time_unit is not None:
            told = units.Clock(time_unit, "--time-unit says so", given=True)
        elif unit := self.columns.units.get("arrival"):
            given = "arrival" in self.columns.given
            told = units.Clock(unit, "--columns says so" if given else "by its name", given=given)
        return units.decide(cells, told, self.columns.format, self.path, self.columns.names["arrival"][0]), None

    def _fill(self, rows: Rows, first: Table, parts: Iterator[Table], stop: Stop | None) -> list[str]:
        """Reads the parts, all or as many as are needed. Returns a note where some were not."""
        table: Table | None = first
        while table is not None:
            arrival = rows.add(table)
            if stop is not None and rows.sorted and rows.timed and stop.reached(arrival):
                told = self._rest(rows)
                if told is not None:
                    return [told] if told else []
                stop = None
            table = next(parts, None)
        return []

    def _rest(self, rows: Rows) -> str | None:
        """What to tell of a rest that is not read; None where it has to be, because it is not in order."""
        unseen = f"read the first {rows.count:,} rows; what follows was not looked at"
        if self.source is None or isinstance(self.opened, Rounds | Conversations):
            return None
        if isinstance(self.opened, Columnar):
            if self.opened.read == self.opened.rows:
                return ""
            ordered = self.opened.in_order(self.columns.names["arrival"][0])
            if ordered is None:
                return unseen
            return (
                f"read the first {rows.count:,} rows; what follows is in order, and was not read" if ordered else None
            )
        if self.source.ended():
            return ""
        if isinstance(self.opened, JsonRows) and self.opened.array:
            return unseen

        def ns(cell: object) -> int | None:
            found = times([cell], "", rows.unit) if rows.dates is None else rows.dates.ns([cell], "")
            return None if found.faults else int(found.values[0])

        delimiter = self.opened.delimiter if isinstance(self.opened, CsvRows) else None
        names, column = self.opened.names, self.columns.names["arrival"][0]
        if self.source.seekable and self.source.encoding == "utf-8-sig":
            start, last, places = self.source.offset(), rows.last, f"{probe.PLACES} places"
            ordered = probe.in_order(self.source.path, start, last, names, column, delimiter, ns)
        else:
            places = "the places"
            with Source(self.source.path) as again:
                ordered = probe.blocks_in_order(again.blocks(), names, column, delimiter, ns)
        seen = f"read the first {rows.count:,} rows; what follows is in order at {places} that were looked at, and was"
        return f"{seen} not read" if ordered else None

    def _rounds(self, arrival: IntArray, program: list[str]) -> list[str]:
        rounds = rounds_at_once(arrival, program)
        if not rounds:
            return []
        return [
            f"{rounds:,} requests come at the very instant of an earlier one of their program: these are rounds of "
            "sessions, which wait for the answer before them, and as arrivals they come all at once"
        ]

    def _reading(self, rows: Rows, clock: units.Clock, unused: dict[str, str], size: int, notes: list[str]) -> Reading:
        """unused: field -> why not. size: tokens of a block."""
        names = self.columns.names
        off = dict(unused)
        hidden = {"id", "block_size"} | ({"duration"} if "think" in names else set())
        off |= {
            field: f"{bad.message}, first in line {bad.line:,}"
            for field, bad in rows.bad.items()
            if rows.unreadable(field)
        }
        used = {field: shown(names, field) for field in names if field not in off and field not in hidden}
        order = ("arrival", "prompt", "output")
        read = {
            field: used[field] for field in (*order, *(field for field in used if field not in order)) if field in used
        }
        if "hash_ids" in read:
            read["hash_ids"] += f" (blocks of {size} tokens)"
        told = {column for field in {*used, *hidden} for column in names.get(field, ())}
        ignored = {names[field][0]: why for field, why in off.items() if field in names}
        if self.columns.format is not None and self.columns.format.failed == "status":
            told.add("status")
        for name in dict.fromkeys([*self.opened.names, *rows.seen]):
            if (
                name not in told
                and name not in ignored
                and not (name == "slo" and any(one.endswith("_slo") for one in read))
            ):
                ignored[name] = ""
        notes = notes + [
            f"{bad.cells:,} cell{'s' if bad.cells > 1 else ''} of {field} cannot be read and count as not given "
            f"(line {bad.line:,}: {bad.message})"
            for field, bad in rows.bad.items()
            if not rows.unreadable(field)
        ]
        format = "" if self.columns.format is None else self.columns.format.name
        return Reading(format, read, clock.unit, clock.why, clock.epoch, ignored, notes)


def _at(values: list[str] | None, positions: list[int] | None) -> list[str] | None:
    return values if values is None or positions is None else [values[i] for i in positions]


def _unsorted(values: IntArray, order: npt.NDArray[np.intp], count: int) -> IntArray:
    """Back in the order of the file, 0 where a row was left out."""
    back = np.zeros(count, np.int64)
    back[order] = values
    return back
