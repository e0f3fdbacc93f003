"""Claims: a published number, our measurement, and whether they agree."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from experiments._lib.case import Point, rate_gain, ratio
from fastserve.metrics.summary import Ratio

NEAR = 0.15
"""relative distance from the published range up to which a number counts as close"""


class Published(NamedTuple):
    """A published number or range."""

    low: float
    high: float
    source: str

    def __str__(self) -> str:
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of experiments/README.md. ours: None where there is no value, such as a rate that was never reached."""

    figure: str
    text: str
    ours: Ratio | None
    published: Published | None = None
    why: str = ""
    """if they disagree: the explanation, and the experiment that supports it"""
    note: str = ""
    """note on our number: what it is if not a number, or how it was truncated"""
    side: str = ""
    """"at least" or "at most" where ours is a bound"""

    @property
    def verdict(self) -> str:
        """yes: our interval meets the published range; close: within 15 % of it; no; open: ours is a bound
        compatible with it, or not a number; "ours": nothing was published."""
        if self.published is None:
            return "ours"
        if self.ours is None:
            return "open"
        low, high = ends(self.ours)
        if self.side:
            beyond = low > self.published.high if self.side == "at least" else high < self.published.low
            return "no" if beyond else "open"
        if low <= self.published.high and high >= self.published.low:
            return "yes"
        near = low <= self.published.high * (1 + NEAR) and high >= self.published.low * (1 - NEAR)
        return "close" if near else "no"

    @property
    def shown(self) -> str:
        """Our number with its interval."""
        if self.ours is None:
            return self.note or "none"
        number = f"{self.side} {shown(self.ours)}".lstrip()
        return f"{number} ({self.note})" if self.note else number

    def __str__(self) -> str:
        published = f"; published {self.published}: {self.verdict}" if self.published else ""
        return f"{self.figure}: {self.text}: {self.shown}{published}"


def ends(ratio: Ratio) -> tuple[float, float]:
    """Ends of its interval; the mean twice if it has none."""
    return (ratio.mean if ratio.low is None else ratio.low), (ratio.mean if ratio.high is None else ratio.high)


def shown(ratio: Ratio) -> str:
    """2.03 [1.96, 2.10]"""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.mean:.3g}"
    return f"{ratio.mean:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"


class Rated(NamedTuple):
    """A ratio of searched rates. side: "at least" or "at most" if a search ended at its highest rate."""

    ours: Ratio | None
    side: str = ""
    note: str = ""


def rated(mine: Point, base: Point, measure: str) -> Rated:
    """The rate at an objective over that of a baseline; a bound where one side is censored, None where both are."""
    name = f"{measure}_censored"
    pairs = [(one.numbers[name], other.numbers[name]) for one, other in zip(mine.rows, base.rows, strict=True)]
    ours, theirs = sum(one for one, _ in pairs), sum(other for _, other in pairs)
    note = f"not reached in {ours} and {theirs} of {len(pairs)} seeds" if ours or theirs else ""
    if any(one and other for one, other in pairs) or (ours and theirs):
        return Rated(None, note=note)
    side = "at least" if ours else "at most" if theirs else ""
    return Rated(rate_gain([mine], [base], measure), side, note)


def gained(figure: str, where: str, base: Point, mine: Point, prefix: str = "") -> Claim:
    """Mean completion time of base over that of mine, with the P95 ratio as a note. prefix: of the measure names."""
    tail = ratio(base, mine, f"{prefix}p95_jct_s")
    text = f"{where}: mean JCT, {base.at['policy']} over {mine.at['policy']}"
    note = "" if tail is None else f"P95 {shown(tail)}"
    return Claim(figure, text, ratio(base, mine, f"{prefix}mean_jct_s"), note=note)


def compared(base: Point, mine: Point, measure: str) -> tuple[Ratio | None, str]:
    """(base over mine, paired by seed; a note). No ratio if a run was stopped: its mean is censored."""
    runs = [row for point in (base, mine) for row in point.rows]
    stopped = sum(bool(row.numbers.get("collapsed")) for row in runs)
    if stopped:
        return None, f"{stopped} of {len(runs)} runs were stopped"
    return ratio(base, mine, measure), "" if mine.status == "ok" else mine.status


@lru_cache(maxsize=1)
def _published() -> dict[tuple[str, str], Published]:
    with (Path(__file__).parents[1] / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            (row["figure"], row["what"]): Published(float(row["low"]), float(row["high"]), row["source"])
            for row in rows
        }


def published(figure: str, what: str) -> Published:
    """A number of published.csv. Raises KeyError."""
    return _published()[figure, what]


class Curve(NamedTuple):
    """A published curve: rates in requests/s and the values at them."""

    rates: list[float]
    values: list[float]


def curve(figure: str, panel: str, system: str) -> Curve:
    """A curve of curves.csv, without the authors' padding points. Raises KeyError."""
    with (Path(__file__).parents[1] / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            (float(row["rate"]), float(row["value"]))
            for row in csv.DictReader(line for line in file if not line.startswith("#"))
            if (row["figure"], row["panel"], row["system"]) == (figure, panel, system)
        ]
    if not rows:
        raise KeyError(f"curves.csv has no {figure} {panel} {system}")
    return Curve([rate for rate, _ in rows], [value for _, value in rows])
