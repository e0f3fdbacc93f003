"""Found: what a sweep has asked and found, in figures; tables, curves and files are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastserve.json_values import plain
from fastserve.metrics.intervals import Ratio, paired_ratio
from sim.sweep import crossings as crossing
from sim.sweep import points as of_points
from sim.sweep.points import Failed, Point, Row

JCT = "mean_jct_s"


@dataclass
class Found:
    """Policies over a grid, over seeds."""

    axes: dict[str, list[Any]]
    """name -> values, of settings and of policies' own knobs"""
    settings: dict[str, Any]
    """those that do not vary"""
    policies: dict[str, str]
    """label -> policy"""
    runs_planned: int = 0
    reading: list[str] = field(default_factory=list)
    """what was read of the trace's file as what"""
    rows: list[Row] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    """runs that could not be made, and why"""
    interrupted: bool = False
    computed: int = 0
    """runs that were made for this; the others were in the folder"""
    folder: Path | None = None

    @property
    def title(self) -> str:
        """In a line."""
        axes = "; ".join(list(in_words(self.axes)))
        done = len(self.rows)
        runs = f"{done:,} runs" if done == self.runs_planned else f"{done:,} of {self.runs_planned:,} runs"
        failed = f", {len(self.failed):,} failed" if self.failed else ""
        return f"Sweep({', '.join(self.labels)}; {axes or 'one point'}; {runs}{failed})"

    @property
    def labels(self) -> list[str]:
        return list(self.policies)

    @property
    def axis(self) -> str | None:
        """What curves are drawn over; None where no axis has two numbers."""
        return found_axis(self, None)

    def curve(self, measure: str) -> list[Point]:
        """The points, in the order of labels and axes. Raises ValueError for an unknown measure."""
        known = {name for row in self.rows for name in row.numbers}
        if self.rows and measure not in known:
            raise ValueError(f"no measure {measure!r}; there are {', '.join(sorted(known))}")
        order = {label: place for place, label in enumerate(self.policies)}
        found = of_points.points(self.rows, self.failed, measure, self.settings.get("samples"))
        return sorted(found, key=lambda point: (order[point.label], self._place(point.at)))

    def ratio_of(self, measure: str, base: str) -> dict[tuple[str, Any], Ratio | None]:
        """The same by label and place."""
        found: dict[tuple[str, Any], Ratio | None] = {}
        samples = self.settings.get("samples")
        curve = self.curve(measure)
        mine = {of_points.key(point.at): point for point in curve if point.label == base}
        for point in curve:
            place = of_points.key(point.at)
            first = next((mine[wide] for wide in of_points.wider(place) if wide in mine), None)
            if point.label == base or first is None:
                continue
            both = [(one, two) for one, two in of_points.paired(first, point) if one > 0 and two > 0]
            ones, twos = [one for one, _ in both], [two for _, two in both]
            found[point.label, place] = paired_ratio(ones, twos, samples=samples) if both else None
        return found

    def crossed(self, measure: str, axis: str | None = None, base: str | None = None) -> list[crossing.Crossing]:
        """The same as a list."""
        first, along = self.base(base), found_axis(self, axis)
        if along is None:
            return []
        return crossing.crossings(self.curve(measure), measure, along, first, self.settings.get("samples"))

    def base(self, base: str | None) -> str:
        if base is not None and base not in self.policies:
            raise ValueError(f"no row has the label {base!r}; there are {', '.join(self.policies)}")
        return base or self.labels[0]

    @property
    def own_knobs(self) -> list[str]:
        """Axes that not every policy has."""
        every: list[Row | Failed] = [*self.rows, *self.failed]
        return [name for name in self.axes if any(name not in row.at for row in every)]

    @property
    def places(self) -> list[dict[str, Any]]:
        """All that any run or failure has, in the order of the axes."""
        every: list[Row | Failed] = [*self.rows, *self.failed]
        found = {of_points.key(row.at): row.at for row in every}
        return sorted(found.values(), key=self._place)

    def about(self) -> dict[str, Any]:
        """What was asked."""
        return {
            "axes": plain(self.axes), "settings": plain(self.settings), "policies": self.policies,
            "runs_planned": self.runs_planned, "reading": list(self.reading),
        }  # fmt: skip

    def _place(self, at: dict[str, Any]) -> tuple[int, ...]:
        """None of a policy without one of the axes comes before those with it."""
        return tuple(1 + self.axes[name].index(at[name]) if name in at else 0 for name in self.axes)


def in_words(axes: dict[str, list[Any]]) -> Iterator[str]:
    """ "load 0.5 to 1.1 (7)" of each axis."""
    for name, values in axes.items():
        few = len(values) < 5 or not all(isinstance(value, int | float) for value in values)
        span = ", ".join(map(str, values)) if few else f"{min(values)} to {max(values)} ({len(values)})"
        yield f"{name} {span}"


def found_axis(sweep: Found, axis: str | None) -> str | None:
    """The axis to look along: the one that is asked for, else load or rate, else the first that has two numbers; None
    where there is none. Raises ValueError for one that is not there.
    """
    if axis is not None:
        if axis not in sweep.axes:
            raise ValueError(f"no axis {axis!r}; there is {', '.join(sweep.axes) or 'none'}")
        return axis
    long = [
        name
        for name, values in sweep.axes.items()
        if sum(isinstance(value, int | float) and not isinstance(value, bool) for value in values) > 1
    ]
    return next((name for name in ("load", "rate") if name in long), long[0] if long else None)
