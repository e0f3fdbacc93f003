"""JSON lines, and a JSON array of objects, decoded row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from fastserve.workload.errors import TraceError
from fastserve.workload.reader.parse import Cells, Fault
from fastserve.workload.reader.source import Source
from fastserve.workload.reader.table import Table

DECODER = json.JSONDecoder(parse_float=str, parse_constant=str)
"""Decimals stay text, so that a time keeps all its digits."""

ROWS = 65_536
"""Rows of a part, at most."""

_LONGEST = 2**26
"""Characters within which an entry of an array must end."""


class JsonRows:
    def __init__(self, source: Source, array: bool) -> None:
        self.source = source
        self.array = array
        self._parts = _array(source) if array else _lines(source)
        self._first = next(self._parts, None)
        self.names = [] if self._first is None else self._first.names

    def refuse_no_objects(self) -> None:
        """TraceError where the first part has no object with a column: there is nothing to name columns of."""
        if self.names:
            return
        if self._first is not None and self._first.broken:
            line, fault = self._first.broken[0]
            raise TraceError(f"{fault.message}; a trace has one JSON object a request", self.source.where, line)
        raise TraceError("the file holds no usable request", self.source.where)

    def tables(self, wanted: Mapping[str, bool]) -> Iterator[Table]:
        if self._first is not None:
            yield self._first
        self._first = None
        yield from self._parts


class JsonObjects:
    """Objects one after another, each over as many lines as it likes. Memory is that of the file."""

    def __init__(self, source: Source) -> None:
        rows = _Rows(source.where)
        text = "".join(source.texts())
        at = _skip(text, 0)
        while at < len(text):
            line = text.count("\n", 0, at) + 1
            try:
                found, at = DECODER.raw_decode(text, at)
            except RecursionError:
                raise TraceError("this JSON is nested too deeply", source.where) from None
            except json.JSONDecodeError as error:
                raise TraceError(f"this is not JSON ({error.msg})", source.where, error.lineno) from None
            rows.keep(found, line)
            at = _skip(text, at)
        self._table = rows.table()
        self.names = self._table.names

    def tables(self, wanted: Mapping[str, bool]) -> Iterator[Table]:
        yield self._table


class _Rows:
    """Rows of one part."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows: list[dict[str, object]] = []
        self.lines: list[int] = []
        self.broken: list[tuple[int, Fault]] = []

    def __len__(self) -> int:
        return len(self.lines) + len(self.broken)

    def keep(self, row: object, line: int) -> None:
        if not isinstance(row, dict):
            self.broken.append((line, Fault("malformed", "this is not a JSON object with one request")))
            return
        slo = row.get("slo")
        if isinstance(slo, dict):
            row.update({f"slo_{key}": value for key, value in slo.items()})
        self.rows.append(row)
        self.lines.append(line)

    def table(self) -> Table:
        alike = all(row.keys() == self.rows[0].keys() for row in self.rows)
        names = list(self.rows[0] if self.rows else []) if alike else _union(self.rows)
        columns: list[Cells] = [[row.get(name) for row in self.rows] for name in names]
        return Table(self.path, names, columns, self.lines, self.broken)


def _union(rows: list[dict[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _lines(source: Source) -> Iterator[Table]:
    number = 0
    for block in source.blocks():
        rows = _Rows(source.where)
        for line in source.text(block, number).removesuffix("\n").split("\n"):
            number += 1
            if not line or line.isspace():
                continue
            try:
                row, end = DECODER.raw_decode(line)
                if end < len(line):
                    row = DECODER.decode(line)  # space around it, or more than one value
            except (ValueError, RecursionError) as error:
                rows.broken.append((number, Fault("malformed", f"this line is not JSON ({error})")))
                continue
            rows.keep(row, number)
        yield rows.table()


def _array(source: Source) -> Iterator[Table]:
    entry = 0
    rows = _Rows(source.where)
    for entry, row in enumerate(_entries(source), 1):
        rows.keep(row, entry)
        if len(rows) == ROWS:
            yield rows.table()
            rows = _Rows(source.where)
    if len(rows) or entry == 0:
        yield rows.table()


def _entries(source: Source) -> Iterator[object]:
    """The entries of one array, each decoded when it is there as a whole."""
    texts = source.texts()
    text, at, lines, begun, comma = "", 0, 0, False, False
    while True:
        at = _skip(text, at)
        if at == len(text):
            more = next(texts, None)
            if more is None:
                raise TraceError(
                    "this is not JSON (the array does not end)", source.where, lines + text.count("\n") + 1
                )
            lines += text.count("\n")
            text, at = more, 0
            continue
        if not begun:
            begun, at = True, at + 1
        elif text[at] == "]":
            _nothing_more(text[at + 1 :], texts, source)
            return
        elif comma:
            if text[at] != ",":
                raise TraceError("this is not JSON (Expecting ',' delimiter)", source.where, _line(lines, text, at))
            comma, at = False, at + 1
        else:
            try:
                found, at = DECODER.raw_decode(text, at)
                if at == len(text) and not isinstance(found, dict | list):
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, at)  # a number may go on
            except RecursionError:
                raise TraceError("this JSON is nested too deeply", source.where) from None
            except json.JSONDecodeError as error:
                more = next(texts, None) if len(text) - at < _LONGEST else None
                if more is None:
                    message = f"this is not JSON ({error.msg})"
                    raise TraceError(message, source.where, _line(lines, text, error.pos)) from None
                lines += text.count("\n", 0, at)
                text, at = text[at:] + more, 0
                continue
            comma = True
            yield found


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _line(before: int, text: str, at: int) -> int:
    return before + text.count("\n", 0, at) + 1


def _nothing_more(text: str, texts: Iterator[str], source: Source) -> None:
    if text.strip() or any(piece.strip() for piece in texts):
        raise TraceError("this is not JSON (Extra data after the array)", source.where)
