"""read_trace: reads any supported trace or dataset of lengths; the format is detected from the content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastserve.workload.arrivals import arrival_times
from fastserve.workload.errors import TraceError
from fastserve.workload.reader import probe, units
from fastserve.workload.reader.columnar import ARROW, PARQUET, Columnar
from fastserve.workload.reader.columns import Columns, resolve, shown
from fastserve.workload.reader.csv_rows import CsvRows
from fastserve.workload.reader.dates import Dates, is_date
from fastserve.workload.reader.formats import GIVEN, refuse_hourly_counts, refuse_sessions
from fastserve.workload.reader.json_rows import DECODER, JsonRows
from fastserve.workload.reader.parse import UNITS, Cells, Fixed, times
from fastserve.workload.reader.rows import Rows, rounds_at_once
from fastserve.workload.reader.servegen import (
    clients_in_archive,
    clients_in_table,
    is_archive,
    is_client_rates,
    requests,
)
from fastserve.workload.reader.source import Source
from fastserve.workload.reader.table import Table, Tables, whole
from fastserve.workload.reading import Reading
from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import NS, IntArray, Trace, check_window


def read_trace(
    path: str | Path,
    *,
    columns: str | None = None,
    time_unit: str | None = None,
    lenient: bool = False,
    rate: float | None = None,
    arrivals: str | None = None,
    lengths: str | None = None,
    seed: int = 0,
    start_s: float = 0.0,
    duration_s: float | None = None,
    num_requests: int | None = None,
) -> Trace:
    """Reads, then cuts the window, then takes the first `num_requests`, then stretches the gaps to `rate`.

    columns: `arrival=ts:ms,prompt=a,output=b` for names that are not recognised; `priority=` leaves a column out.
    time_unit: s, ms, us or ns, of the arrivals, where neither the column's name nor the format tells.
    lenient: drop rows that cannot be used and count them in Trace.dropped, instead of raising at the first; up to 5 %.
    rate: requests/s; a set of lengths without arrival times needs it, any other trace is stretched to it.
    arrivals: the process that gives a set of lengths its times (see arrivals.py; default poisson).
    lengths: the distribution for ServeGen client rates without lengths (see lengths.py).
    seed: shuffles and times a set of lengths, draws ServeGen requests; a recorded trace ignores it.
    start_s, duration_s: the window in seconds since the first arrival (ServeGen: since midnight of its first day).

    Trace.reading says what was taken for what. Of a large file that is in order, no more is read than is asked for.
    Raises TraceError, whose message names file and line.
    """
    where = str(path)
    if time_unit is not None and time_unit not in UNITS:
        raise TraceError(f"unknown --time-unit {time_unit!r}; use one of {', '.join(UNITS)}")
    with Source(Path(path)) as source:
        if is_archive(source.head):
            trace = requests(clients_in_archive(source.rest(), where), where, lengths, seed, start_s, duration_s)
        else:
            opened = _opened(source)
            if is_client_rates(opened.names):
                trace = requests(clients_in_table(whole(opened, where)), where, lengths, seed, start_s, duration_s)
            else:
                if lengths is not None:
                    raise TraceError(
                        "this file has its own lengths; --lengths is only for client rates without any", where
                    )
                if isinstance(opened, JsonRows):
                    opened.refuse_no_objects()
                refuse_hourly_counts(opened.names, where)
                if not all(f"{field}=" in (columns or "") for field in GIVEN):
                    refuse_sessions(opened.names, where)
                stop = _Stop(num_requests, start_s, duration_s)
                file = _File(source, opened, resolve(opened.names, columns, where), where)
                trace = file.trace(time_unit, lenient, rate, arrivals, seed, stop).window(start_s, duration_s)
    if num_requests is not None:
        trace = trace.head(num_requests)
    trace = trace if rate is None else trace.with_rate(rate)
    return replace(trace, name=_stem(Path(path)))


def _opened(source: Source) -> Tables:
    """By content: `{` opens JSON lines, `[` a JSON array, else it is columnar or CSV (comma, tab or semicolon)."""
    for magic in (PARQUET, ARROW):
        if source.head.startswith(magic):
            return Columnar(source.path, magic)
    if source.encoding == "utf-8-sig" and b"\x00" in source.head:
        raise source.no_text(1)
    head = source.head.decode(source.encoding, errors="ignore")
    first = head[:4096].lstrip()[:1]
    if not first:
        raise TraceError("the file is empty", source.where)
    if first not in "{[":
        return CsvRows(source)
    if first == "{":
        _refuse_several_lines(head, source.where)
    return JsonRows(source, array=first == "[")


def _refuse_several_lines(head: str, path: str) -> None:
    """TraceError for one JSON object over several lines; it would look like many broken ones."""
    text = head.lstrip()
    line = text.partition("\n")[0].rstrip()
    try:
        DECODER.decode(line)
        return
    except (ValueError, RecursionError):
        pass
    try:
        several = "\n" in text[: DECODER.raw_decode(text)[1]]
    except (ValueError, RecursionError):
        several = line.endswith(("{", "[", ",")) and "\n" in text
    if several:
        refuse_sessions(list(dict.fromkeys(re.findall(r'"(\w+)"\s*:', text))), path)
        raise TraceError(
            "this is one JSON object over several lines; a trace has one object a line, or an array of them "
            "(jq -c . FILE > LINES writes one a line)",
            path,
        )


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", ".tar", ".tgz", ".csv", ".jsonl", ".json", ".parquet", ".arrow"):
        name = name.removesuffix(suffix)
    return name or path.name


class _Stop:
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
class _File:
    """A table of requests, on its way to a Trace."""

    source: Source
    opened: Tables
    columns: Columns
    path: str

    def trace(
        self,
        time_unit: str | None,
        lenient: bool,
        rate: float | None,
        arrivals: str | None,
        seed: int,
        stop: _Stop,
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
        self._check_arrivals(timed, rate, arrivals, time_unit)
        clock, dates = self._clock(cells, time_unit) if timed else (units.Clock("none", ""), None)
        rows = Rows(self.path, self.columns, clock.unit, dates, lenient)
        notes = self._fill(rows, first, parts, stop if timed else None)
        order, sorted_note = rows.ordered()
        rows.settle()
        notes += [sorted_note] if sorted_note else []
        picked: dict[str, Any] = {field: rows.joined(field) for field in rows.fields()}
        if timed:
            if order is not None:
                picked = {field: values[order] for field, values in picked.items()}
            arrival = picked.pop("arrival")
            if dates is not None:
                clock = replace(clock, epoch=units.first_at(int(arrival[0])))
            arrival = arrival - arrival[0]
            tokens = int(picked["prompt"].sum() + picked["output"].sum())
            if rate is None:  # else the gaps are stretched, whatever their unit
                units.check(clock, len(arrival), tokens, int(arrival[-1]), self.path, names["arrival"][0])
            clock = replace(clock, why=clock.why + units.doubt(clock, len(arrival), int(arrival[-1])))
        else:
            assert rate is not None
            streams = seed_sequence(seed).spawn(2)
            order = np.random.default_rng(streams[0]).permutation(rows.count)
            picked = {field: values[order] for field, values in picked.items()}
            arrival = arrival_times(arrivals or "poisson", rows.count, rate, streams[1])
        positions = None if order is None else order.tolist()
        prompt = picked["prompt"]
        blocks = rows.blocks(prompt if order is None else _unsorted(prompt, order, rows.count))
        unused = {"hash_ids": blocks} if isinstance(blocks, str) else {}
        ids, size = (None, 512) if blocks is None or isinstance(blocks, str) else blocks
        program = _at(rows.texts("program"), positions)
        if timed and program is not None:
            notes += self._rounds(arrival, program)
        return Trace(
            name=_stem(Path(self.path)),
            source=self.path,
            arrival=arrival,
            client=_at(rows.texts("client"), positions),
            program=program,
            hash_ids=_at(ids, positions),
            block_size=size,
            dropped=rows.all_dropped(),
            reading=self._reading(rows, clock, unused, notes),
            **picked,
        )

    def _check_arrivals(self, timed: bool, rate: float | None, arrivals: str | None, time_unit: str | None) -> None:
        if not timed and rate is None:
            raise TraceError(
                "this file has lengths but no arrival times; give --rate R (requests per second), with --arrivals "
                "poisson, gamma:cv=4, onoff:on=10,off=30 or deterministic if you like, "
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

    def _fill(self, rows: Rows, first: Table, parts: Iterator[Table], stop: _Stop | None) -> list[str]:
        """Reads the parts, all or as many as are needed. Returns a note where some were not."""
        table: Table | None = first
        while table is not None:
            arrival = rows.add(table)
            if stop is not None and rows.sorted and stop.reached(arrival):
                told = self._rest(rows)
                if told is not None:
                    return [told] if told else []
                stop = None
            table = next(parts, None)
        return []

    def _rest(self, rows: Rows) -> str | None:
        """What to tell of a rest that is not read; None where it has to be, because it is not in order."""
        unseen = f"read the first {rows.count:,} rows; what follows was not looked at"
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

    def _reading(self, rows: Rows, clock: units.Clock, unused: dict[str, str], notes: list[str]) -> Reading:
        names = self.columns.names
        kept = "kept, for the prefix cache"
        off = {"hash_ids": unused.get("hash_ids", kept), "block_size": "it is of the hash_ids"}
        off |= {
            field: f"{bad.message}, first in line {bad.line:,}"
            for field, bad in rows.bad.items()
            if rows.unreadable(field)
        }
        used = {field: shown(names, field) for field in names if field not in off}
        order = ("arrival", "prompt", "output")
        read = {
            field: used[field] for field in (*order, *(field for field in used if field not in order)) if field in used
        }
        told = {column for field in used for column in names[field]}
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


def _at(values: list[str] | list[list[int]] | None, positions: list[int] | None) -> list:  # type: ignore[type-arg]
    return values if values is None or positions is None else [values[i] for i in positions]  # type: ignore[return-value]


def _unsorted(values: IntArray, order: npt.NDArray[np.intp], count: int) -> IntArray:
    """Back in the order of the file, 0 where a row was left out."""
    back = np.zeros(count, np.int64)
    back[order] = values
    return back
