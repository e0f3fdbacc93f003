"""What a number in the column of arrivals means: its unit, why it is taken so, and whether that can be.

A unit is given by hand, by the column's name, by the size of the numbers (a Unix time), or by the format; else it is
seconds. One that was not given is judged by what it makes of the trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice, pairwise

from fastserve.workload.errors import TraceError
from fastserve.workload.reader.formats import Format
from fastserve.workload.reader.order import allowed
from fastserve.workload.reader.parse import LATEST, UNITS, Cells

FASTEST_TOKENS = 250_000
"""Prompt and output tokens/s above which a unit is not believed: five times what a node of eight H100 takes in (52,300
prompt tokens/s, DeepSeek-R1, SGLang 2025), four times the busiest public trace (Mooncake, 60,000)."""

FASTEST_REQUESTS = 1_000
"""Requests/s above which it is not believed, however short they are."""

SLOWEST_GAP = 31.6
"""Mean seconds between two requests above which an assumed unit is not believed: nearer to one request a second they
are as the next shorter one (the root of 1,000 is the middle)."""

FEWEST = 10
"""Requests below which a unit is not judged: a burst, or a few requests far apart, are as likely."""

FROM_FIRST = "counted from the first request"
_YEAR_2000, _YEAR_2100 = 946_684_800, 4_102_444_800
_LONGER = {"ns": ("us", "ms", "s"), "us": ("ms", "s"), "ms": ("s",), "s": ()}
_SHORTER = {"s": ("ms", "us", "ns"), "ms": ("us", "ns"), "us": ("ns",), "ns": ()}


@dataclass(frozen=True, slots=True)
class Clock:
    """The unit of the arrivals, how it is known, and where time begins."""

    unit: str
    why: str
    assumed: bool = False
    """Whether nothing in the file says so."""
    given: bool = False
    """Whether the user says so."""
    unix: bool = False
    """Whether the numbers can only be Unix times in this unit."""
    epoch: str = FROM_FIRST


def decide(cells: Cells, told: Clock | None, format: Format | None, path: str, column: str) -> Clock:
    """From the first cells of `column`. told: the unit as given or named; None where nobody said."""
    numbers = [number for cell in islice(cells, 10_000) if (number := _number(cell)) is not None]
    if told is not None:
        return replace(told, epoch=_epoch(numbers, told.unit))
    unix = next((one for one in UNITS if numbers and _is_unix(_early(numbers), one)), None)
    if unix is not None:
        return Clock(unix, f"by their size, Unix times in {unix}", unix=True, epoch=_epoch(numbers, unix))
    fractions = any(number % 1 for number in numbers)
    if format is not None and format.unit is not None:
        if format.unit == "s" or not fractions:
            what = "" if fractions else " (whole numbers)"
            assumed = format.unit != "s" or not (fractions or format.whole)
            return Clock(format.unit, f"as {format.name} files have{what}", assumed)
        gap = _gap(numbers)
        if gap < SLOWEST_GAP:
            why = f"{format.name} files have whole {format.unit}, but these have fractions and are {gap:.3g} apart"
            return Clock("s", why, assumed=True)
        return Clock(format.unit, f"as {format.name} files have, {gap:.4g} apart", assumed=True)
    late = sorted(numbers)[9 * len(numbers) // 10] if numbers else 0.0  # not the last: one number may be wrong
    if late * 1e9 > LATEST:
        best = min(_SHORTER["s"], key=lambda one: abs(math.log10(max(_gap(numbers), 1e-9) * 10.0 ** (UNITS[one] - 9))))
        raise TraceError(
            f"{column} has bare numbers like {late:,.0f}, {_plain(_gap(numbers))} apart, which are no seconds. "
            f"Say what they are: --time-unit {best} (or another of {', '.join(UNITS)})",
            path,
        )
    return Clock("s", f"assumed: {'numbers with fractions' if fractions else 'whole numbers'}", assumed=True)


def check(clock: Clock, requests: int, tokens: int, span: int, path: str, column: str) -> None:
    """TraceError if this many requests and tokens within `span` ns cannot be, or hardly, and another unit would do."""
    if requests < FEWEST or not span or clock.unit not in UNITS:
        return
    rates = {clock.unit: (requests - 1) * 1e9 / span}
    for other in UNITS:
        rates[other] = rates[clock.unit] * 10.0 ** (UNITS[clock.unit] - UNITS[other])
    mean = tokens / requests
    here = rates[clock.unit]
    fast = here > FASTEST_REQUESTS or here * mean > FASTEST_TOKENS
    slow = clock.assumed and 1 / here > SLOWEST_GAP
    if not fast and not slow:
        return
    others = [
        one
        for one in (_LONGER if fast else _SHORTER)[clock.unit]
        if rates[one] <= FASTEST_REQUESTS and rates[one] * mean <= FASTEST_TOKENS
    ]
    if (not others and not (fast and clock.assumed)) or (fast and (clock.unix or clock.given)):
        return
    said = (
        f"{_plain(here)} requests/s, {_plain(here * mean)} tokens/s" if fast else f"one request in {_plain(1 / here)} s"
    )
    why = "more than any machine serves" if fast else "which bare numbers seldom mean"
    if not others:
        raise TraceError(
            f"{column} read as {clock.unit} ({clock.why}) makes {said}, {why}, and no longer unit is "
            f"read: give the column in seconds, or say --time-unit {clock.unit} if that is right",
            path,
        )
    best = min(others, key=lambda one: abs(math.log10(rates[one])))  # the nearest to one request a second
    raise TraceError(
        f"{column} read as {clock.unit} ({clock.why}) makes {said}, {why}; as {best} it makes "
        f"{_plain(rates[best])} requests/s. Say which it is: --time-unit {best} (or --time-unit "
        f"{clock.unit} if that is right)",
        path,
    )


def doubt(clock: Clock, requests: int, span: int) -> str:
    """What the other reading of an assumed unit would make."""
    if not clock.assumed or clock.unit != "s" or requests < 2 or not span:
        return ""
    return f"; as ms they would make {_plain((requests - 1) * 1e12 / span)} requests/s (--time-unit ms)"


def first_at(ns: int) -> str:
    """The epoch of dates. ns: since 1970, of the first request; of a duration or a time of day, less than a day."""
    return FROM_FIRST if 0 <= ns < 86_400 * 10**9 else f"the first at {_moment(ns)}"


def _plain(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _number(cell: object) -> float | None:
    try:
        number = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _gap(numbers: Sequence[float]) -> float:
    """Mean distance of neighbours."""
    gaps = [abs(b - a) for a, b in pairwise(numbers)]
    return sum(gaps) / len(gaps) if gaps else 0.0


def _early(numbers: Sequence[float]) -> float:
    """The earliest, but for the few that may be wrong."""
    return sorted(numbers)[min(allowed(len(numbers)), (len(numbers) - 1) // 2)]


def _is_unix(number: float, unit: str) -> bool:
    return _YEAR_2000 <= number * 10.0 ** (UNITS[unit] - 9) < _YEAR_2100


def _epoch(numbers: Sequence[float], unit: str) -> str:
    if numbers and _is_unix(_early(numbers), unit):
        first = next(number for number in numbers if _is_unix(number, unit))
        return f"Unix time, the first at {_moment(int(first * 10 ** UNITS[unit]))}"
    return FROM_FIRST


def _moment(ns: int) -> str:
    try:
        return f"{datetime.fromtimestamp(ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{ns} ns since 1970"
