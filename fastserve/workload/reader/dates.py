"""Dates and times of day as they are written in traces, to ns since 1970."""

from __future__ import annotations

import re
from datetime import date

import numpy as np

from fastserve.workload.reader.parse import LATEST, CellError, Cells, Fault, Fixed, Numbers
from fastserve.workload.trace import NS

FORMS = "2023-11-16 18:15:46.68, 2023-11-16T18:15:46Z, 2023/11/16 18:15:46, 11/16/2023 6:15:46 PM, 16.11.2023 18:15:46"
"""The forms that are read; without a zone a time is taken as UTC."""

_ISO = re.compile(r"(\d{4})[-/](\d\d?)[-/](\d\d?)")
_OTHER = re.compile(r"(\d\d?)([/.-])(\d\d?)\2(\d{4})")
_CLOCK = re.compile(
    r"[ T,]*(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d*))?)?\s*([AaPp]\.?[Mm]\.?)?\s*(?:Z|UTC|GMT|([+-])(\d\d)(?::?(\d\d))?)?"
)


def is_date(cell: object) -> bool:
    """Whether it begins as a date, be it one that can be read or not."""
    text = cell.strip() if isinstance(cell, str) else ""
    return _ISO.match(text) is not None or _OTHER.match(text) is not None


def looks_like_time(cell: object) -> bool:
    """Text with a colon or the name of a month: somebody's way to write a time."""
    return (
        isinstance(cell, str)
        and re.search(r"\d:\d\d|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec", cell, re.I) is not None
    )


def not_read(cell: object, what: str) -> Fault:
    """What is wrong with a cell that is a time in none of FORMS."""
    return Fault("not a number", f"{what}: {cell!r} is not a time that is read; forms that are: {FORMS}")


class Dates:
    """Reads the cells of one file; the order of day and month, where it varies, is settled once for the whole file."""

    def __init__(self) -> None:
        self.days: dict[str, int] = {}
        self.day_first: bool | None = None

    def settle(self, cells: Cells) -> str | None:
        """Looks which of two numbers is the day. Returns what is wrong if the cells do not tell."""
        pairs = {
            match.group(1, 2, 3) for cell in cells if isinstance(cell, str) and (match := _OTHER.match(cell.strip()))
        }
        if not pairs or any(sign == "." for _, sign, _ in pairs):
            self.day_first = True
            return None
        first, second = max(int(a) for a, _, _ in pairs), max(int(b) for _, _, b in pairs)
        if (first > 12) == (second > 12):
            a, sign, b = next(iter(sorted(pairs)))
            return (
                f"dates like {a}{sign}{b}{sign}YYYY do not tell the day from the month here; write them as "
                f"year-month-day. Forms that are read: {FORMS}"
            )
        self.day_first = first > 12
        return None

    def ns(self, cells: Cells, what: str) -> Numbers:
        """ns since 1970."""
        if isinstance(cells, Fixed) and cells.dates and not (abs(cells.values) > LATEST).any():
            return Numbers(cells.values, {})
        faults: dict[int, Fault] = {}
        values: list[int] = []
        for row, cell in enumerate(cells):
            try:
                ns = self._one(cell, what)
            except CellError as error:
                faults[row], ns = error.fault, 0
            except (ValueError, IndexError):
                faults[row], ns = not_read(cell, what), 0
            values.append(ns)
        return Numbers(np.array(values, np.int64), faults)

    def _one(self, cell: object, what: str) -> int:
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise CellError("missing", f"{what}: missing")
        if not isinstance(cell, str):
            raise ValueError
        day, rest = cell[:10], cell[10:]
        known = self.days.get(day)
        if known is None or rest[:1] not in " T":
            text = cell.strip()
            match = _ISO.match(text) or _OTHER.match(text)
            if match is None:
                raise ValueError
            known, rest = self._day(match), text[match.end() :]
            if match.end() == 10 and text == cell:
                self.days[day] = known
        ns = known * 86_400 * NS + _clock(rest)
        if abs(ns) > LATEST:
            raise CellError("absurd", f"{what}: {cell!r} is more than 146 years from 1970")
        return ns

    def _day(self, match: re.Match[str]) -> int:
        if match.re is _ISO:
            year, month, day = (int(part) for part in match.groups())
        else:
            year, month, day = int(match[4]), int(match[1]), int(match[3])
            if self.day_first:
                month, day = day, month
        return (date(year, month, day) - date(1970, 1, 1)).days


def _clock(text: str) -> int:
    """ns since midnight (UTC) of what stands behind a date."""
    if not text.strip():
        return 0
    match = _CLOCK.fullmatch(text.rstrip())
    if match is None:
        raise ValueError
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[5]:
        if not 1 <= hour <= 12:
            raise ValueError
        hour = hour % 12 + 12 * (match[5][0] in "Pp")
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError
    ns = (hour * 3600 + minute * 60 + second) * NS + int(((match[4] or "") + "000000000")[:9])
    if match[6]:
        offset = (int(match[7]) * 3600 + int(match[8] or 0) * 60) * NS
        ns += offset if match[6] == "-" else -offset
    return ns
