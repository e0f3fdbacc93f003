"""Where one policy stops winning against another, along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log
from typing import Any, NamedTuple

from sim.sweep.points import Point, interval, key, paired, wider

TIE = 0.005
"""Policies whose figures differ by less than this share are level: at a low load nobody has a choice to make."""

MORE = (
    "goodput_rps",
    "slo_attainment",
    "throughput_rps",
    "output_tokens_per_s",
    "jain_index",
    "hit_rate",
    "acceptance",
)
"""Measures of which more is better; of all others less."""


class Crossing(NamedTuple):
    base: str
    label: str
    at: dict[str, Any]
    """the other axes"""
    axis: str
    place: float
    """value of the axis at which their means are equal"""
    low: float | None
    high: float | None
    """its 95 % interval over seeds, where all of them cross and there are enough"""
    below: str
    """which of the two is ahead below this place"""
    above: str
    seeds: int
    """how many of them cross there, the same way"""
    of: int

    def __str__(self) -> str:
        spread = "" if self.low is None or self.high is None else f" [{self.low:.3g}, {self.high:.3g}]"
        others = "".join([f", {name} {value}" for name, value in self.at.items()])
        share = "" if self.seeds == self.of else f", in {self.seeds} of {self.of} seeds"
        upto = f"{self.axis} {self.place:.3g}{spread}"
        return f"{self.below} is ahead of {self.above} up to {upto}, then behind{others}{share}"


def crossings(found: Sequence[Point], measure: str, axis: str, base: str, samples: int | None) -> list[Crossing]:
    """Of `base` with each other policy. Points that failed or collapsed are left out: what they measured is a bound."""
    lines: dict[tuple[str, Any], list[Point]] = {}
    for point in found:
        if point.spread is not None and point.status not in ("failed", "collapsed"):
            rest = {name: value for name, value in point.at.items() if name != axis}
            lines.setdefault((point.label, key(rest)), []).append(point)
    made: list[Crossing] = []
    for (label, rest), line in lines.items():
        mine = next((lines[base, other] for other in wider(rest) if (base, other) in lines), None)
        if label == base or mine is None or axis not in line[0].at:
            continue
        at = {name: value for name, value in line[0].at.items() if name != axis}
        pairs = _paired(mine, line, axis)
        means = [(x, _ahead(one.spread.mean, two.spread.mean, measure)) for x, one, two in pairs]  # type: ignore[union-attr]
        seeds = sorted({seed for _, one, two in pairs for seed in one.values.keys() & two.values.keys()})
        each = {
            seed: [
                (x, _ahead(one.values[seed], two.values[seed], measure))
                for x, one, two in pairs
                if seed in one.values and seed in two.values
            ]
            for seed in seeds
        }
        for place, rises in _zeros(means):
            near = [_nearest(_zeros(steps), place, rises) for steps in each.values()]
            there = [value for value in near if value is not None]
            if 2 * len(there) < len(seeds):
                continue  # a place that the mean owes to one or two of them
            spread = interval(there, samples) if len(there) == len(seeds) and there else None
            below, above = (label, base) if rises else (base, label)
            low, high = (None, None) if spread is None else (spread.low, spread.high)
            made.append(Crossing(base, label, at, axis, place, low, high, above, below, len(there), len(seeds)))
    return made


def _paired(mine: Sequence[Point], line: Sequence[Point], axis: str) -> list[tuple[float, Point, Point]]:
    """By place of the axis, rising. A policy without this axis is the same all along it."""
    others = {repr(point.at.get(axis)): point for point in mine}
    found = [(point.at[axis], others.get(repr(point.at[axis]), others.get("None")), point) for point in line]
    pairs = [(x, first, point) for x, first, point in found if first is not None]
    numbers = [pair for pair in pairs if isinstance(pair[0], int | float) and not isinstance(pair[0], bool)]
    return sorted([pair for pair in numbers if paired(pair[1], pair[2])], key=lambda pair: pair[0])


def _ahead(base: float, other: float, measure: str) -> float:
    """Above 0 where `other` is better; 0 where they are level."""
    if base <= 0 or other <= 0:
        found = base - other
    else:
        found = log(base / other)
    if abs(found) < TIE:
        return 0.0
    return -found if measure in MORE else found


def _zeros(steps: Sequence[tuple[float, float]]) -> list[tuple[float, bool]]:
    """Where a line through these crosses 0, and whether it rises there; what only touches 0 does not cross it."""
    clear = [(x, y) for x, y in steps if y]
    return [
        (x0 + (x1 - x0) * y0 / (y0 - y1), y1 > 0) for (x0, y0), (x1, y1) in pairwise(clear) if (y0 > 0) is not (y1 > 0)
    ]


def _nearest(zeros: Sequence[tuple[float, bool]], place: float, rises: bool) -> float | None:
    same = [x for x, up in zeros if up is rises]
    return min(same, key=lambda x: abs(x - place)) if same else None
