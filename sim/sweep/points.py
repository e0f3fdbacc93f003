"""Points of a sweep: one policy at one place of the grid, with the mean over its seeds and its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, sqrt
from typing import Any, Final, NamedTuple

import numpy as np

from fastserve.metrics.intervals import Ratio, enough, paired_ratio, t_95

FAILED: Final = "failed"
STATUSES: Final = (FAILED, "collapsed", "saturated")
"""The worst first; any other point is ok."""

SHARES: Final = ("slo_attainment", "hit_rate", "jain_index", "acceptance")
"""Measures that are at most 1."""


class Row(NamedTuple):
    """One run."""

    policy: str
    label: str
    router: str
    """with its settings; "" without one"""
    at: dict[str, Any]
    """axis -> value"""
    seed: int
    numbers: dict[str, Any]
    """its summary, with rate and load"""
    told: dict[str, Any]
    """its policy's settings"""
    records: Mapping[str, Any] | None = None


class Failed(NamedTuple):
    """A run that could not be made."""

    label: str
    at: dict[str, Any]
    seed: int
    why: str

    def __str__(self) -> str:
        return f"{self.label}{where(self.at)}, seed {self.seed}: {self.why}"


class Point(NamedTuple):
    label: str
    policy: str
    at: dict[str, Any]
    values: dict[int, float]
    """by seed; those without a value are left out"""
    spread: Ratio | None
    """mean over the seeds and its 95 % interval; None without a value"""
    status: str
    """the worst of its seeds: failed (none could be made), collapsed, saturated or ok"""
    cut: dict[int, int]
    """by seed: jobs that were truncated"""


def paired(base: Point, other: Point) -> list[tuple[float, float]]:
    """Their values by common seed; none where one collapsed or truncated other jobs than the other (as far as their
    number tells), for then they did not do the same work.
    """
    seeds = [seed for seed in base.values if seed in other.values]
    if "collapsed" in (base.status, other.status) or any(base.cut[seed] != other.cut[seed] for seed in seeds):
        return []
    return [(base.values[seed], other.values[seed]) for seed in sorted(seeds)]


def where(at: Mapping[str, Any]) -> str:
    """ " at load 0.7, quantum 0.1"; nothing where nothing varies."""
    return f" at {', '.join([f'{name} {value}' for name, value in at.items()])}" if at else ""


def status(numbers: Mapping[str, Any]) -> str:
    """Outcome of a run: "ok", "saturated" or "collapsed".

    Collapsed: it was stopped at its bound of live jobs, at whatever load, so that its figures are of the jobs until
    then. Saturated: its queue grew to the end.
    """
    if numbers.get("collapsed"):
        return "collapsed"
    return "saturated" if numbers.get("saturated") else "ok"


def worst(found: Iterable[str]) -> str:
    there = set(found)
    return next((word for word in STATUSES if word in there), "ok")


def key(at: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Of a place, for dicts: values may be unhashable."""
    return tuple((name, repr(value)) for name, value in at.items())


def wider(place: tuple[tuple[str, str], ...]) -> list[tuple[tuple[str, str], ...]]:
    """This place, and those of policies without its last axes: knobs stand last, and a policy has its own alone."""
    return [place[:count] for count in range(len(place), -1, -1)]


def points(rows: Sequence[Row], failed: Sequence[Failed], measure: str, samples: int | None) -> list[Point]:
    """In order of appearance. samples: independent samples behind the seeds, see paired_ratio()."""
    groups: dict[tuple[str, Any], list[Row | Failed]] = {}
    every: list[Row | Failed] = [*rows, *failed]
    for row in every:
        groups.setdefault((row.label, key(row.at)), []).append(row)
    policies = {row.label: row.policy for row in rows}
    made = []
    for (label, _), group in groups.items():
        runs = [row for row in group if isinstance(row, Row)]
        values = {row.seed: float(row.numbers[measure]) for row in runs if _finite(row.numbers.get(measure))}
        found = worst(status(row.numbers) for row in runs) if runs else FAILED
        ordered = [values[seed] for seed in sorted(values)]
        spread = interval(ordered, samples, measure in SHARES) if ordered else None
        cut = {row.seed: int(row.numbers.get("truncated") or 0) for row in runs}
        made.append(Point(label, policies.get(label, label), dict(group[0].at), values, spread, found, cut))
    return made


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def interval(values: Sequence[float], samples: int | None, share: bool = False) -> Ratio:
    """The mean over seeds with its 95 % interval, by the rule of paired_ratio(), None below four seeds. share: of a
    measure that is at most 1. Where a value is not above 0, which that rule cannot take, plain Student's t.
    """
    if min(values) > 0:
        found = paired_ratio(values, [1.0] * len(values), samples=samples)
    else:
        mean, low, high = float(np.mean(values)), None, None
        if enough(len(values), samples):
            m = len(values) if samples is None else min(samples, len(values))
            error = float(np.std(values, ddof=1)) / sqrt(m) * t_95((len(values) if m == 1 else m) - 1)
            low, high = mean - error, mean + error
        found = Ratio(mean, low, high)
    if share and found.high is not None and max(values) <= 1:
        found = found._replace(high=min(found.high, 1.0), low=max(found.low or 0.0, 0.0))
    return found
