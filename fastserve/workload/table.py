"""Reads CSV, JSON lines or a JSON array into columns of raw cells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from fastserve.workload.errors import TraceError
from fastserve.workload.parse import Fault

_JSON = json.JSONDecoder(parse_float=str, parse_constant=str)
"""Decimals stay text, so that a time keeps all its digits."""


@dataclass(frozen=True, slots=True)
class Table:
    path: str
    names: list[str]
    """Column names in order of appearance; "0", "1", ... for a CSV whose first row holds only numbers."""
    columns: list[Sequence[object]]
    """One sequence of cells per name, all of equal length."""
    lines: list[int]
    """The line (or, in a JSON array, the entry) of each row, from 1."""
    broken: list[tuple[int, Fault]]
    """(line, fault) of what could not be split into cells at all."""

    def __getitem__(self, name: str) -> Sequence[object]:
        return self.columns[self.names.index(name)]

    def __len__(self) -> int:
        return len(self.lines)


def read_table(text: str, path: str) -> Table:
    """By content: `{` opens JSON lines, `[` a JSON array, anything else is CSV (comma, tab or semicolon)."""
    first = text[:4096].lstrip()[:1]
    if not first:
        raise TraceError("the file is empty", path)
    if first == "{":
        return _json_lines(text, path)
    return _json_array(text, path) if first == "[" else _csv(text, path)


def _csv(text: str, path: str) -> Table:
    head = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=head.count))
    rows: list[list[str]] = []
    lines: list[int] = []
    broken: list[tuple[int, Fault]] = []
    names: list[str] = []
    try:
        for row in reader:
            if not row or row == [""]:
                continue
            if not names:
                headless = all(_is_number(cell) for cell in row)
                names = [str(i) for i in range(len(row))] if headless else [cell.strip() for cell in row]
                if not headless:
                    continue
            if len(row) == len(names):
                rows.append(row)
                lines.append(reader.line_num)
            else:
                message = f"the row has {len(row)} cells, the first row has {len(names)}"
                broken.append((reader.line_num, Fault("malformed", message)))
    except csv.Error as error:
        raise TraceError(f"this is not CSV ({error})", path, reader.line_num) from None
    columns: list[Sequence[object]] = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    return Table(path, names, columns, lines, broken)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _json_lines(text: str, path: str) -> Table:
    rows: list[dict[str, object]] = []
    lines: list[int] = []
    broken: list[tuple[int, Fault]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line or line.isspace():
            continue
        try:
            row = _JSON.decode(line)
        except (ValueError, RecursionError) as error:
            broken.append((number, Fault("malformed", f"this line is not JSON ({error})")))
            continue
        _keep(row, number, rows, lines, broken)
    return _from_rows(path, rows, lines, broken)


def _json_array(text: str, path: str) -> Table:
    try:
        entries = _JSON.decode(text)
    except json.JSONDecodeError as error:
        raise TraceError(f"this is not JSON ({error.msg})", path, error.lineno) from None
    except RecursionError:
        raise TraceError("this JSON is nested too deeply", path) from None
    rows: list[dict[str, object]] = []
    lines: list[int] = []
    broken: list[tuple[int, Fault]] = []
    for number, entry in enumerate(entries, 1):
        _keep(entry, number, rows, lines, broken)
    return _from_rows(path, rows, lines, broken)


def _keep(
    row: object, number: int, rows: list[dict[str, object]], lines: list[int], broken: list[tuple[int, Fault]]
) -> None:
    if not isinstance(row, dict):
        broken.append((number, Fault("malformed", "this is not a JSON object with one request")))
        return
    slo = row.get("slo")
    if isinstance(slo, dict):
        row.update({f"slo_{key}": value for key, value in slo.items()})
    rows.append(row)
    lines.append(number)


def _from_rows(path: str, rows: list[dict[str, object]], lines: list[int], broken: list[tuple[int, Fault]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(path, names, [[row.get(name) for row in rows] for name in names], lines, broken)
