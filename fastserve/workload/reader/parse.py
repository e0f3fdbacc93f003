"""Parses cells of a file to integers, with a Fault for every cell that is not one.

A cell is what CSV or JSON gave: text (JSON decimals are kept as text, so that nothing is rounded), int, None, or
anything else, which is a fault. Times are exact: digits below a nanosecond are dropped, none above is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from fastserve.workload.trace import IntArray

LARGEST = 10_000_000
"""Largest plausible length in tokens; above it a row is refused."""

UNITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
"""Unit of a time column -> its decimal digits above the nanosecond."""

_NOTHING = frozenset({"nan", "none", "null", "n/a", "na", "<na>"})

LATEST = 2**62
"""ns; 146 years, so that differences of two times fit 64 bits."""


class Fault(NamedTuple):
    """Why a row cannot be used."""

    reason: str
    """The key under which a lenient read counts the row."""
    message: str


class Numbers(NamedTuple):
    """A parsed column; `values` at the rows in `faults` are undefined."""

    values: IntArray
    faults: dict[int, Fault]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Cells that a library has parsed: numbers in units of 1e-9, or (`dates`) ns since 1970."""

    values: IntArray
    dates: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> str:
        """The cell as text."""
        whole, fraction = divmod(int(self.values[row]), 10**9)
        if self.dates:
            return f"{date(1970, 1, 1) + timedelta(whole // 86_400)} ({whole % 86_400}.{fraction:09d} s)"
        return f"{whole}.{fraction:09d}".rstrip("0").removesuffix(".")


Cells: TypeAlias = "Sequence[object] | Fixed | IntArray"
"""A column: raw cells, or what a library has made of them."""


class CellError(ValueError):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(reason, message)


def counts(cells: Cells, what: str, least: int = 1, most: int = LARGEST, absent: int | None = None) -> Numbers:
    """Whole numbers from least to most. `absent` stands for an empty cell; None makes an empty cell a fault."""
    faults: dict[int, Fault] = {}
    plain = _all_whole(cells)
    if plain is None:
        values = np.full(len(cells), least, np.int64)
        filled = np.ones(len(cells), bool)
        for row, cell in enumerate(cells):
            if absent is not None and is_absent(cell):
                values[row] = absent
                filled[row] = False
                continue
            try:
                values[row] = _whole(cell, what)
            except CellError as error:
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


def times(cells: Cells, what: str, unit: str, absent: int | None = None) -> Numbers:
    """ns of numbers given in `unit`; negative times are faults. `absent` as in counts()."""
    faults: dict[int, Fault] = {}
    digits = UNITS[unit]
    quick = _quick_times(cells, digits)
    if quick is not None:
        return Numbers(quick, faults)
    values: list[int] = []
    scale, zeros = 10**digits, "0" * digits
    for row, cell in enumerate(cells):
        try:
            if type(cell) is int or isinstance(cell, np.integer):
                ns = int(cell) * scale
            elif absent is not None and is_absent(cell):
                ns = absent
            else:
                whole, _, fraction = cell.partition(".") if isinstance(cell, str) else ("", "", "")
                if whole.isdecimal() and len(whole) < 25 and (not fraction or fraction.isdecimal()):
                    ns = int(whole) * scale + int((fraction + zeros)[:digits] or 0)
                else:
                    ns = int(_decimal(cell, what).scaleb(digits))
            if ns < 0:
                raise CellError("negative", f"{what}: {cell} is negative")
            if ns > LATEST:
                raise CellError("absurd", f"{what}: {cell} {unit} is beyond 146 years; is the unit right?")
        except CellError as error:
            faults[row] = error.fault
            ns = 0
        values.append(ns)
    return Numbers(np.array(values, np.int64), faults)


def _quick_times(cells: Cells, digits: int) -> IntArray | None:
    """The fast path: a column of plain numbers of which none is negative or late, else None."""
    if isinstance(cells, Fixed):
        fits = not cells.dates and (not len(cells) or int(cells.values.min()) >= 0)
        return np.floor_divide(cells.values, 10 ** (9 - digits)) if fits else None
    plain = _all_whole(cells)
    if plain is None or (len(plain) and not 0 <= int(plain.min()) <= int(plain.max()) <= LATEST // 10**digits):
        return None
    scaled: IntArray = plain * 10**digits
    return scaled


def _all_whole(cells: Cells) -> IntArray | None:
    """The fast path: a column of nothing but plain integers, else None."""
    if isinstance(cells, np.ndarray):
        return cells
    if isinstance(cells, Fixed):
        return None if cells.dates or (cells.values % 10**9).any() else np.floor_divide(cells.values, 10**9)
    kinds = set(map(type, cells))
    if kinds != {str} and kinds != {int}:
        return None
    try:
        return np.fromiter((int(cell) for cell in cast("Sequence[str | int]", cells)), np.int64, len(cells))
    except (ValueError, OverflowError):
        return None


def is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def is_absent(cell: object) -> bool:
    """Whether it is empty, or a word by which programs write that nothing is there."""
    return is_empty(cell) or (isinstance(cell, str) and cell.strip().lower() in _NOTHING)


def _decimal(cell: object, what: str) -> Decimal:
    if is_empty(cell):
        raise CellError("missing", f"{what}: missing")
    if isinstance(cell, int) and not isinstance(cell, bool):
        return Decimal(cell)
    if not isinstance(cell, str):
        raise CellError("not a number", f"{what}: {cell!r} is not a number")
    try:
        number = Decimal(cell.strip())
    except InvalidOperation:
        raise CellError("not a number", f"{what}: {cell!r} is not a number") from None
    if not number.is_finite():
        raise CellError("not a number", f"{what}: {cell.strip()} is not a number")
    if number.adjusted() > 24:
        raise CellError("absurd", f"{what}: {cell.strip()} is absurd")
    return number


def _whole(cell: object, what: str) -> int:
    number = _decimal(cell, what)
    if number != number.to_integral_value():
        raise CellError("not a number", f"{what}: {cell} is not a whole number")
    if abs(number) > LATEST:
        raise CellError("absurd", f"{what}: {cell} is absurd")
    return int(number)
