"""The page of a sweep: its tables, each measure over the axis with bands, and where one policy stops winning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Protocol

from fastserve.metrics.intervals import Ratio
from sim.report.columns import HEADINGS, Show
from sim.report.page.run import clipped, colour_of, made, plain_markup
from sim.report.page.shell import Markup, write_page
from sim.report.style import Look, looks_of

MOST_PANELS = 12  # of places of the other axes: each has a chart of every measure

MOST_WORDS = 400  # characters of a sentence

CROSSED = ("mean_jct_s", "goodput_rps")
"""Measures of which it is told where one policy stops winning, as below the text table."""

LINEAR = ("_rps", "attainment", "_rate", "_index", "_share")
"""Endings of measures that are drawn from 0; times are on a log axis, where ratios are distances."""


class Point(Protocol):
    """One policy at one place of the grid, over its seeds."""

    @property
    def label(self) -> str: ...
    @property
    def at(self) -> Mapping[str, Any]: ...  # axis -> value
    @property
    def values(self) -> Mapping[int, float]: ...  # by seed
    @property
    def spread(self) -> Ratio | None: ...
    @property
    def status(self) -> str: ...


class Swept(Protocol):
    """What the page needs of a sim.sweep.Sweep."""

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]: ...
    @property
    def axis(self) -> str | None: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def policies(self) -> Mapping[str, str]: ...
    @property
    def rows(self) -> Sequence[Any]: ...
    def crossed(self, measure: str) -> Sequence[object]: ...  # each reads as a sentence
    def curve(self, measure: str) -> Sequence[Point]: ...
    def table(self, show: Show = None) -> str: ...
    def _repr_html_(self) -> str: ...


def write_sweep(path: Path, sweep: Swept, measures: Sequence[str], show: Show = None) -> Path:
    """measures: what is drawn, of which those without a value are left out. show: columns of the text table.

    Raises ValueError without runs, OutputError where the file cannot be written.
    """
    if not sweep.rows:
        raise ValueError(f"{path}: there is nothing to report: no run was finished")
    looks = looks_of(dict(sweep.policies))
    known = {name for row in sweep.rows for name in row.numbers}
    charts = [chart for name in measures if name in known for chart in _charts(sweep, name, looks)]
    names = ", ".join([clipped(label) for label in sweep.policies])
    title = f"{names} on {clipped(str(sweep.settings.get('trace', '')))}"
    parts = {
        "heading": title,
        "facts": _facts(sweep),
        "seed": "",
        "result": _crossings(sweep),
        "below": _tables(sweep, show),
        "made": made(),
    }
    data = {"seed": 0, "charts": charts, "notable": [], "schedules": []}
    return write_page(path, title, parts, data)


def _facts(sweep: Swept) -> Markup:
    words = [f"{len(sweep.rows):,} runs", f"{len({row.seed for row in sweep.rows})} seeds"]
    for name, values in sweep.axes.items():
        span = f"{values[0]} to {values[-1]}" if len(values) > 1 else str(*values)
        words.append(f"{name.replace('_', ' ')} {clipped(span)}")
    return Markup("".join([f"<span>{escape(word)}</span>" for word in words]))


def _crossings(sweep: Swept) -> Markup:
    """Where one policy stops winning, a sentence each; nothing where no two curves cross."""
    known = {name for row in sweep.rows for name in row.numbers}
    lines = [f"{heading(name)}: {one}" for name in CROSSED if name in known for one in sweep.crossed(name)]
    items = "".join([f"<li>{escape(clipped(line, MOST_WORDS))}</li>" for line in lines])
    return Markup(f'<ul class="crossings" aria-label="Where one policy stops winning">{items}</ul>' if items else "")


def heading(measure: str) -> str:
    return " ".join([part for part in HEADINGS.get(measure, (measure, "")) if part])


def _tables(sweep: Swept, show: Show) -> Markup:
    text = escape(sweep.table(show))
    return Markup(
        '<p class="note">A band spans the seeds. A hollow point: the queue grew to the end in some seed.</p>'
        f'<details><summary>Tables</summary><div class="scroll tables" tabindex="0" role="group" '
        f'aria-label="Results">{plain_markup(sweep._repr_html_())}</div></details>'
        f'<details><summary>As text, with all settings</summary><pre class="scroll" tabindex="0">{text}</pre></details>'
    )


def _charts(sweep: Swept, measure: str, looks: Mapping[str, Look]) -> list[dict[str, Any]]:
    """One for each place of the other axes."""
    axis = sweep.axis
    points = [point for point in sweep.curve(measure) if point.spread is not None and point.status != "failed"]
    if axis is None or not points:
        return []
    common = set.intersection(*[set(point.at) for point in points]) - {axis}
    panels: dict[str, list[Point]] = {}
    for point in points:
        title = ", ".join([f"{name.replace('_', ' ')} {point.at[name]}" for name in sweep.axes if name in common])
        panels.setdefault(title, []).append(point)
    log = not measure.endswith(LINEAR)
    name = heading(measure)
    about = {"x": axis.replace("_", " "), "y": name, "dots": True, "logY": log}
    if measure in ("slo_attainment",):
        about["top"] = 1
    return [
        about | {"title": f"{name}, {panel}" if panel else name, "series": _series(sweep, found, axis, common, looks)}
        for panel, found in list(panels.items())[:MOST_PANELS]
    ]


def _series(
    sweep: Swept, points: Sequence[Point], axis: str, common: set[str], looks: Mapping[str, Look]
) -> list[dict[str, Any]]:
    """A line a policy; of one with knobs of its own a line a value; of one without the axis a level line."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        own = [f"{name}={value}" for name, value in point.at.items() if name not in common and name != axis]
        lines.setdefault(" ".join([point.label, *own]), []).append(point)
    ends = [value for value in sweep.axes[axis] if isinstance(value, int | float)]
    found = []
    for name, line in lines.items():
        style = looks[line[0].label]
        level = axis not in line[0].at
        several = (
            [(x, line[0]) for x in (min(ends), max(ends))] if level else [(point.at[axis], point) for point in line]
        )
        several.sort(key=lambda pair: float(pair[0]))
        drawn = [(x, point) for x, point in several if point.spread is not None]
        found.append({
            "label": clipped(name), "colour": colour_of(style), "dash": style.dash,
            "x": [x for x, _ in drawn], "y": [point.spread.mean for _, point in drawn if point.spread is not None],
            "low": [min(point.values.values()) for _, point in drawn],
            "high": [max(point.values.values()) for _, point in drawn],
            "hollow": [point.status != "ok" for _, point in drawn],
        })  # fmt: skip
    return found
