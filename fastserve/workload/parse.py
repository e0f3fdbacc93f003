"""Parses cells of a file to integers, with a Fault for every cell that is not one.

A cell is what CSV or JSON gave: text (JSON decimals are kept as text, so that nothing is rounded), int, None, or
anything else, which is a fault. Times are exact: digits below a nanosecond are dropped, none above is lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, cast

import numpy as np

from fastserve.workload.trace import NS, IntArray

LARGEST = 10_000_000
"""Largest plausible length in tokens; above it a row is refused."""

UNITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
"""Unit of a time column -> its decimal digits above the nanosecond."""

_LATEST = 2**62
"""ns; 146 years, so that differences of two times fit 64 bits."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]")
_AFTER_SECONDS = re.compile(r"(?:\.(\d*))?\s*(?:Z|UTC|([+-])(\d\d)(?::?(\d\d))?)?")


class Fault(NamedTuple):
    """Why a row cannot be used."""

    reason: str
    """The key under which a lenient read counts the row."""
    message: str


class Numbers(NamedTuple):
    """A parsed column; `values` at the rows in `faults` are undefined."""

    values: IntArray
    faults: dict[int, Fault]


class _CellError(ValueError):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(reason, message)


def is_date(cell: object) -> bool:
    return isinstance(cell, str) and _DATE.match(cell.strip()) is not None


def counts(
    cells: Sequence[object], what: str, least: int = 1, most: int = LARGEST, absent: int | None = None
) -> Numbers:
    """Whole numbers from least to most. `absent` stands for an empty cell; None makes an empty cell a fault."""
    faults: dict[int, Fault] = {}
    plain = _all_whole(cells)
    if plain is None:
        values = np.full(len(cells), least, np.int64)
        filled = np.ones(len(cells), bool)
        for row, cell in enumerate(cells):
            if absent is not None and _is_empty(cell):
                values[row] = absent
                filled[row] = False
                continue
            try:
                values[row] = _whole(cell, what)
            except _CellError as error:
                faults[row] = error.fault
    else:
        values, filled = plain, np.ones(len(cells), bool)
    for row in np.flatnonzero(filled & ((values < least) | (values > most))).tolist():
        number = int(values[row])
        if number > most:
            faults[row] = Fault("absurd", f"{what}: {number:,} is absurd (more than {most:,})")
        elif number < 0:
            faults[row] = Fault("negative", f"{what}: {number} is negative")
        else:
            faults[row] = Fault("zero", f"{what}: {number}, but the least allowed is {least}")
    return Numbers(values, faults)


def times(cells: Sequence[object], what: str, unit: str, absent: int | None = None) -> Numbers:
    """ns of numbers given in `unit`; negative times are faults. `absent` as in counts()."""
    faults: dict[int, Fault] = {}
    values: list[int] = []
    digits = UNITS[unit]
    scale, zeros = 10**digits, "0" * digits
    for row, cell in enumerate(cells):
        try:
            if type(cell) is int:
                ns = cell * scale
            elif absent is not None and _is_empty(cell):
                ns = absent
            else:
                whole, _, fraction = cell.partition(".") if isinstance(cell, str) else ("", "", "")
                if whole.isdecimal() and len(whole) < 25 and (not fraction or fraction.isdecimal()):
                    ns = int(whole) * scale + int((fraction + zeros)[:digits] or 0)
                else:
                    ns = int(_decimal(cell, what).scaleb(digits))
            if ns < 0:
                raise _CellError("negative", f"{what}: {cell} is negative")
            if ns > _LATEST:
                raise _CellError("absurd", f"{what}: {cell} {unit} is beyond 146 years; is the unit right?")
        except _CellError as error:
            faults[row] = error.fault
            ns = 0
        values.append(ns)
    return Numbers(np.array(values, np.int64), faults)


def dates(cells: Sequence[object], what: str) -> Numbers:
    """ns since 1970 of `YYYY-MM-DD hh:mm:ss[.fraction][zone]`, the space may be a T; without a zone, UTC."""
    faults: dict[int, Fault] = {}
    values: list[int] = []
    days: dict[str, int] = {}
    for row, cell in enumerate(cells):
        try:
            if not isinstance(cell, str) or not cell.strip():
                raise _CellError("missing", f"{what}: missing")
            day, rest = cell[:10], cell[19:]
            if cell[10] not in " T" or cell[13] != ":" or cell[16] != ":":
                raise ValueError
            if day not in days:
                days[day] = (date.fromisoformat(day) - date(1970, 1, 1)).days * 86_400
            hour, minute, second = int(cell[11:13]), int(cell[14:16]), int(cell[17:19])
            if hour > 23 or minute > 59 or second > 60:
                raise ValueError
            ns = (days[day] + hour * 3600 + minute * 60 + second) * NS
            fraction = rest[1:]
            if rest and rest[0] == "." and fraction.isdecimal():
                ns += int((fraction + "000000000")[:9])
            elif rest:
                ns += _after_seconds(rest)
            if abs(ns) > _LATEST:
                raise _CellError("absurd", f"{what}: {cell!r} is more than 146 years from 1970")
        except _CellError as error:
            faults[row], ns = error.fault, 0
        except (ValueError, IndexError):
            message = f"{what}: {cell!r} is not a time like 2023-11-16 18:15:46.6805900"
            faults[row], ns = Fault("not a number", message), 0
        values.append(ns)
    return Numbers(np.array(values, np.int64), faults)


def _after_seconds(rest: str) -> int:
    match = _AFTER_SECONDS.fullmatch(rest.strip())
    if match is None:
        raise ValueError
    fraction, sign, hours, minutes = match.groups()
    ns = int(((fraction or "") + "000000000")[:9])
    if sign:
        offset = (int(hours) * 3600 + int(minutes or 0) * 60) * NS
        ns += offset if sign == "-" else -offset
    return ns


def _all_whole(cells: Sequence[object]) -> IntArray | None:
    """The fast path: a column of nothing but plain integers, else None."""
    kinds = set(map(type, cells))
    if kinds != {str} and kinds != {int}:
        return None
    try:
        return np.fromiter((int(cell) for cell in cast("Sequence[str | int]", cells)), np.int64, len(cells))
    except (ValueError, OverflowError):
        return None


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _decimal(cell: object, what: str) -> Decimal:
    if _is_empty(cell):
        raise _CellError("missing", f"{what}: missing")
    if isinstance(cell, int) and not isinstance(cell, bool):
        return Decimal(cell)
    if not isinstance(cell, str):
        raise _CellError("not a number", f"{what}: {cell!r} is not a number")
    try:
        number = Decimal(cell.strip())
    except InvalidOperation:
        raise _CellError("not a number", f"{what}: {cell!r} is not a number") from None
    if not number.is_finite():
        raise _CellError("not a number", f"{what}: {cell.strip()} is not a number")
    if number.adjusted() > 24:
        raise _CellError("absurd", f"{what}: {cell.strip()} is absurd")
    return number


def _whole(cell: object, what: str) -> int:
    number = _decimal(cell, what)
    if number != number.to_integral_value():
        raise _CellError("not a number", f"{what}: {cell} is not a whole number")
    if abs(number) > _LATEST:
        raise _CellError("absurd", f"{what}: {cell} is absurd")
    return int(number)
