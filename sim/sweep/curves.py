"""Curves of a sweep: a measure over an axis, a line a policy, with a band; other axes are panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve.sched.checks import one_of
from sim.report.figure import legend, plain_log, save
from sim.report.style import COLUMN, DASHES, PAGE, RC, Look, as_text, looks_of
from sim.sweep.found import Found, found_axis
from sim.sweep.points import FAILED, Point, key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "mean_jct_s": "mean JCT (s)",
    "p50_jct_s": "p50 JCT (s)",
    "p95_jct_s": "p95 JCT (s)",
    "p99_jct_s": "p99 JCT (s)",
    "mean_ttft_s": "mean TTFT (s)",
    "p99_ttft_s": "p99 TTFT (s)",
    "mean_tpot_s": "mean TPOT (s)",
    "mean_s_per_token": "mean s per token",
    "mean_slowdown": "mean slowdown",
    "goodput_rps": "goodput (requests/s)",
    "throughput_rps": "done (requests/s)",
    "slo_attainment": "attainment",
}
"""Measure -> what stands at its axis; any other by its own name."""

AXES = {"load": "load (1 = what fcfs sustains)", "rate": "rate (requests/s)"}

LINEAR = ("_rps", "attainment", "_rate", "_index", "_share")
"""Endings of measures with a linear axis from 0; times are on a log axis, where ratios are distances."""

BANDS = ("seeds", "interval")
"""Around a mean: from the smallest to the largest seed as in all figures here, or its 95 % interval."""

MOST_PANELS = 8
MOST_TICKS = 7


def plot(sweep: Found, folder: Path, measures: Sequence[str], band: str = BANDS[0]) -> list[Path]:
    """`curves` and `curves-MEASURE`, see Sweep.plot(); returns the paths."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn, axis = _drawn(sweep, measures, band)
    paths = []
    with mpl.rc_context(RC):
        for name, part in [("curves", drawn), *((f"curves-{name}", {name: found}) for name, found in drawn.items())]:
            paths += save(_filled(Figure(layout="constrained"), sweep, part, axis, band), folder / name)
    return paths


def picture(sweep: Found, measures: Sequence[str], band: str = BANDS[0]) -> Figure:
    """All measures in one figure that shows itself in a notebook."""
    import matplotlib as mpl

    from sim.report.picture import Picture

    drawn, axis = _drawn(sweep, measures, band)
    with mpl.rc_context(RC):
        return _filled(Picture(layout="constrained"), sweep, drawn, axis, band)


def _drawn(sweep: Found, measures: Sequence[str], band: str) -> tuple[dict[str, list[Point]], str]:
    """The curves of the measures that any run has, and the axis. Raises ValueError where there are none."""
    one_of("band", band, BANDS)
    if not sweep.rows:
        raise ValueError("There is nothing to draw: no run was finished.")
    axis = found_axis(sweep, None)
    if axis is None:
        raise ValueError("there is no axis with two numbers to draw over: give one, as load=0.5:1.1:0.1")
    curves = {name: sweep.curve(name) for name in measures}
    drawn = {name: found for name, found in curves.items() if any(point.spread for point in found)}
    if not drawn:
        raise ValueError(f"no run has a value of {', '.join(measures)}")
    return drawn, axis


def _filled(figure: Figure, sweep: Found, drawn: Mapping[str, Sequence[Point]], axis: str, band: str) -> Figure:
    """A row of panels a measure where another axis makes panels, else the measures side by side."""
    panels = _panels(next(iter(drawn.values())), axis)
    looks = looks_of(sweep.policies)
    many = len(panels) > 1
    columns = len(panels) if many else min(len(drawn), 3)
    rows = len(drawn) if many else -(-len(drawn) // columns)
    width = COLUMN if columns == 1 else PAGE if columns < 5 else 1.75 * columns
    extra = 0.16 * -(-len(looks) // (2 if columns == 1 else 5))
    figure.set_size_inches(width, (2.3 if columns < 3 else 1.9) * rows + extra)
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row" if many else "none")
    for place, (measure, found) in enumerate(drawn.items()):
        cells = grid[place] if many else [grid.flat[place]]
        for axes, (title, at) in zip(cells, panels.items(), strict=True):
            _panel(axes, [point for point in found if _within(point.at, at)], axis, looks, band)
            _scale(axes, [point.spread for point in found if point.spread is not None], measure)
            axes.set_title(title)
        cells[0].set_ylabel(NAMES.get(measure, measure))
    for axes in list(grid.flat)[len(drawn) * len(panels) :]:
        axes.set_visible(False)
    legend(figure, grid[0, 0], 2 if columns == 1 else 5)
    return figure


def _panels(found: Sequence[Point], axis: str) -> dict[str, dict[str, Any]]:
    """Title -> the other axes, one for each of their places; what a policy has for itself is lines in every panel."""
    common = {name for name in found[0].at if name != axis and all(name in point.at for point in found)}
    places = {key(at): at for point in found for at in [{n: v for n, v in point.at.items() if n in common}]}
    if len(places) > MOST_PANELS:
        of = ", ".join(sorted(common))
        raise ValueError(f"{len(places)} panels ({of}) are more than a figure holds, {MOST_PANELS}: draw a part")
    return {
        ", ".join([f"{name.replace('_', ' ')} {value}" for name, value in at.items()]): at for at in places.values()
    }


def _within(point: Mapping[str, Any], at: Mapping[str, Any]) -> bool:
    return all(point.get(name) == value for name, value in at.items())


def _panel(axes: Axes, found: Sequence[Point], axis: str, looks: Mapping[str, Look], band: str) -> None:
    """Points with a queue that grew to the end are hollow, stopped ones a cross: their jobs were cut short."""
    lines: dict[tuple[str, Any], list[Point]] = {}
    found = [point for point in found if isinstance(point.at.get(axis, 0), int | float)]  # and not "unlimited"
    names = {name for point in found for name in point.at if name != axis}
    titles = {name for name in names if any(name not in point.at for point in found)}
    for point in found:
        own = {name: value for name, value in point.at.items() if name in titles}
        if point.status != FAILED and point.spread is not None:
            lines.setdefault((point.label, key(own)), []).append(point)
    shades: dict[str, int] = {}
    for (label, own), line in lines.items():
        nth = shades.get(label, 0)
        shades[label] = nth + 1
        style = looks[label]._replace(dash=DASHES[(DASHES.index(looks[label].dash) + nth) % len(DASHES)])
        if axis not in line[0].at:  # a knob that it does not have
            level = line[0].spread.mean  # type: ignore[union-attr]
            axes.axhline(level, color=style.colour, linestyle=style.dash, label=as_text(label))
            continue
        line.sort(key=lambda point: point.at[axis])
        xs = [point.at[axis] for point in line]
        spreads = [point.spread for point in line if point.spread is not None]
        title = f"{label} {' '.join([f'{name}={value}' for name, value in own])}".rstrip()
        alpha = 1.0 / (1 + nth // len(DASHES))
        axes.plot(
            xs, [one.mean for one in spreads], color=style.colour, linestyle=style.dash, label=as_text(title),
            marker=style.marker, markevery=[], alpha=alpha,
        )  # fmt: skip
        low, high = zip(*[_band(point, band) for point in line], strict=True)
        axes.fill_between(xs, low, high, color=style.colour, alpha=0.15 * alpha, linewidth=0)
        for x, one, point in zip(xs, spreads, line, strict=True):
            axes.plot(
                [x], [one.mean], linestyle="none", markeredgecolor=style.colour, alpha=alpha,
                marker="x" if point.status == "collapsed" else style.marker,
                markerfacecolor=style.colour if point.status == "ok" else "white",
            )  # fmt: skip
    places = sorted({point.at[axis] for point in found if axis in point.at})
    if places and len(places) <= MOST_TICKS and all(b - a >= (places[-1] - places[0]) / 9 for a, b in pairwise(places)):
        axes.set_xticks(places)
    axes.set_xlabel(AXES.get(axis, axis.replace("_", " ")))


def _band(point: Point, band: str) -> tuple[float, float]:
    """From the smallest to the largest seed, or the interval; nothing where there is none."""
    assert point.spread is not None
    if band == "seeds":
        return min(point.values.values()), max(point.values.values())
    low, high = point.spread.low, point.spread.high
    return (point.spread.mean,) * 2 if low is None or high is None else (low, high)


def _scale(axes: Axes, spreads: Sequence[Any], measure: str) -> None:
    """A log axis for times. The limits are those of the means: a few seeds' band may reach far beyond."""
    if not spreads:
        return
    low, high = min(one.mean for one in spreads), max(one.mean for one in spreads)
    if measure.endswith(LINEAR) or low <= 0:
        axes.set_ylim(min(0.0, low), 1.08 * high if high > 0 else 1.0)
        return
    axes.set_yscale("log")
    room = (high / low) ** 0.25 + 0.1
    axes.set_ylim(low / room, high * room)
    plain_log(axes.yaxis)
