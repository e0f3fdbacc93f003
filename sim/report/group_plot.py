"""A figure of groups of jobs: a row a group, a mark a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.report.figure import save
from sim.report.groups import Bys, Split, kinds, split
from sim.report.plot import legend
from sim.report.run import Run
from sim.report.style import PAGE, RC, Look, as_text, looks_of
from sim.report.table import by_label, has_slo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 40.0
"""Ratio of the largest to the smallest value of a panel from which its axis is logarithmic."""


def draw_by(runs: Sequence[Run], settings: Mapping[str, Any], by: Bys, folder: Path) -> list[Path]:
    """Writes by_KIND as .pdf and .png for each kind; returns the paths. Raises ValueError, OutputError."""
    if not kinds(by):
        return []
    import matplotlib as mpl
    from matplotlib.figure import Figure

    paths = []
    with mpl.rc_context(RC):
        for one in kinds(by):
            figure = Figure(layout="constrained")
            _fill(figure, split(runs, settings, one), runs)
            paths += save(figure, folder / f"by_{one.kind}")
    return paths


def picture_by(runs: Sequence[Run], settings: Mapping[str, Any], by: Bys) -> Figure:
    """That of one kind, which shows itself in a notebook. Raises ValueError for several."""
    import matplotlib as mpl

    from sim.report.picture import Picture

    one, *more = kinds(by)
    if more:
        raise ValueError(
            f"by: a figure is of one kind of groups, not also by {more[0].kind}; give a folder for several"
        )
    with mpl.rc_context(RC):
        figure = Picture(layout="constrained")
        _fill(figure, split(runs, settings, one), runs)
    return figure


def _fill(figure: Figure, found: Split, runs: Sequence[Run]) -> None:
    """Means over seeds; a line spans the smallest and largest seed."""
    slo, looks = has_slo(runs), looks_of({label: group[0].policy for label, group in by_label(runs).items()})
    panels = [("mean_jct_s", "mean JCT (s)"), ("p99_jct_s", "p99 JCT (s)")]
    panels.append(("slo_attainment", "share of SLOs met") if slo else ("mean_slowdown", "mean slowdown"))
    each = 0.1 * len(looks) + 0.16
    figure.set_size_inches(PAGE, 0.8 + each * len(found.parts))
    for axes, (key, title) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        values = _marks(axes, found, looks, key)
        axes.set_xlabel(title)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        if key == "slo_attainment":
            axes.set_xlim(-0.03, 1.03)
        elif values and min(values) > 0 and max(values) > APART * min(values):
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
            axes.locator_params(axis="x", nbins=4)
        for between in range(1, len(found.parts)):
            axes.axhline(between - 0.5, color="#DDDDDD", linewidth=0.4)
    first = figure.axes[0]
    first.set_yticks(range(len(found.parts)), [as_text(name) for name in found.names])
    first.set_ylim(len(found.parts) - 0.5, -0.5)  # the first group on top, as in the table
    legend(figure, first, len(looks))


def _marks(axes: Axes, found: Split, looks: Mapping[str, Look], key: str) -> list[float]:
    """The values that were drawn."""
    drawn: list[float] = []
    step = 0.7 / max(len(looks), 1)
    for place, (label, look) in enumerate(looks.items()):
        shift = (place - (len(looks) - 1) / 2) * step
        rows, means, spans = [], [], []
        for row, part in enumerate(found.parts):
            values = [float(value) for run in by_label(part).get(label, []) if (value := run.summary[key]) is not None]
            if values:
                rows.append(row + shift)
                means.append(sum(values) / len(values))
                spans.append((min(values), max(values)))
        drawn += [value for span in spans for value in span]
        axes.hlines(rows, [low for low, _ in spans], [high for _, high in spans], color="#999999", linewidth=0.8)
        axes.plot(means, rows, linestyle="none", marker=look.marker, color=look.colour, label=as_text(label))
    return drawn
