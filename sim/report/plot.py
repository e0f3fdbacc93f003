"""Figures of a set of runs: the CDF of completion times, of jobs and of programs, and bars of their mean and p99."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.finish import is_outcome
from sim.report.figure import save
from sim.report.run import Run
from sim.report.style import COLUMN, HATCHES, PAGE, RC, Look, as_text, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

Floats = NDArray[np.float64]

POINTS = 400  # of a curve: more than a column's width resolves


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Writes jct_cdf and jct_bars into `folder`, of runs of sessions program_cdf too, each as .pdf and .png. Returns
    the paths.

    Raises ValueError without runs and fastserve.atomic_files.OutputError when the folder cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups, looks = _grouped(runs)
    paths = []
    # Not pyplot: it keeps every figure in a global list.
    with mpl.rc_context(RC):
        for name, time, share, of in _curves(runs):
            figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
            _cdf(figure, groups, looks, of, time, share)
            legend(figure, figure.axes[0], len(groups))
            paths += save(figure, folder / name)
        figure = Figure(figsize=_bars_size(groups), layout="constrained")
        _bars(figure, groups, looks)
        return [*paths, *save(figure, folder / "jct_bars")]


def picture(runs: Sequence[Run]) -> "Figure":
    """The same in one figure that shows itself in a notebook. Raises ValueError without runs."""
    import matplotlib as mpl

    from sim.report.picture import Picture

    groups, looks = _grouped(runs)
    curves = _curves(runs)
    with mpl.rc_context(RC):
        width, height = _bars_size(groups)
        figure = Picture(figsize=(COLUMN * len(curves) + width, max(2.4, height)), layout="constrained")
        parts: Any = figure.subfigures(1, len(curves) + 1, width_ratios=[COLUMN] * len(curves) + [width])
        for part, (_, time, share, of) in zip(parts, curves, strict=False):
            _cdf(part, groups, looks, of, time, share)
        _bars(parts[-1], groups, looks)
        legend(figure, parts[0].axes[0], len(groups))
    return figure


def _grouped(runs: Sequence[Run]) -> tuple[dict[str, list[Run]], dict[str, Look]]:
    """Label -> its runs, and its look."""
    if not runs:
        raise ValueError("There is nothing to draw: no run was finished.")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups, looks_of({label: group[0].policy for label, group in groups.items()})


class Curve(NamedTuple):
    """name: of its files. time, share: of the axes. of: a run's sorted times, and how many there are in all."""

    name: str
    time: str
    share: str
    of: Callable[[Run], tuple[Floats, int]]


def _curves(runs: Sequence[Run]) -> list[Curve]:
    jobs = Curve("jct_cdf", "job completion time (s)", "share of jobs", _completed)
    if any(run.programs is None for run in runs):
        return [jobs]
    return [jobs, Curve("program_cdf", "program time (s)", "share of programs", _ended)]


def _cdf(
    figure: "FigureBase",
    groups: Mapping[str, Sequence[Run]],
    looks: Mapping[str, Look],
    of: Callable[[Run], tuple[Floats, int]],
    time: str,
    share: str,
) -> None:
    """Share of jobs or programs completed within a time, all seeds together; the band spans the seeds.

    of: sorted times of the completed ones, and how many there are in all. Unfinished ones belong to the whole that the
    share is of: the curve of such a run ends below 1.
    """
    axes = figure.subplots()
    completed = [of(run) for group in groups.values() for run in group]
    times = np.concatenate([jct for jct, _ in completed])
    times = times[times > 0]
    # The few shortest jobs would take a decade of the axis.
    low, high = np.quantile(times, (0.002, 1.0)) if len(times) else (0.1, 1.0)
    grid = np.geomspace(low, max(high, low * 1.01), POINTS)
    for label, group in groups.items():
        curves = [np.searchsorted(jct, grid, side="right") / max(total, 1) for jct, total in map(of, group)]
        weights = [total for _, total in map(of, group)]
        style = looks[label]
        pooled = np.average(curves, axis=0, weights=weights) if sum(weights) else curves[0]
        if len(curves) > 1:
            band = np.array(curves)
            axes.fill_between(grid, band.min(axis=0), band.max(axis=0), color=style.colour, alpha=0.18, linewidth=0)
        axes.plot(
            grid, pooled, label=as_text(label), color=style.colour, linestyle=style.dash, marker=style.marker,
            markevery=_markers(pooled, list(groups).index(label)),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(time)
    axes.set_ylabel(share)


def _completed(run: Run) -> tuple[Floats, int]:
    """Sorted completion times, and the number of all jobs."""
    finish, jct = run.records["finish"], run.records["jct_from_arrival"]
    done = is_outcome(finish, "completed")
    return np.sort(jct[done]), int(np.count_nonzero(done | (finish == "unfinished")))


def _ended(run: Run) -> tuple[Floats, int]:
    """The same of programs; abandoned ones stand outside."""
    assert run.programs is not None
    finish, time = run.programs["finish"], run.programs["time"]
    return np.sort(time[finish == "completed"]), int(np.count_nonzero(finish != "abandoned"))


def _markers(curve: Floats, nth: int) -> list[int]:
    """Marker positions on a curve: evenly spaced in the share, shifted per label to avoid overlap."""
    shares = (np.arange(5) + 0.5 + 0.1 * (nth % 5)) / 6 * curve[-1]
    return sorted(set(np.searchsorted(curve, shares).tolist()))


def _bars_size(groups: Mapping[str, Sequence[Run]]) -> tuple[float, float]:
    """Inches."""
    return PAGE if len(groups) > 5 else COLUMN, 1.6 + 0.16 * len(groups)


def _bars(figure: "FigureBase", groups: Mapping[str, Sequence[Run]], looks: Mapping[str, Look]) -> None:
    """Mean and p99 of the completion time, averaged over seeds; a line spans the smallest and largest seed."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, title) in zip(panels, (("mean_jct_s", "mean"), ("p99_jct_s", "p99")), strict=True):
        for row, (label, group) in enumerate(groups.items()):
            values = [float(value) for run in group if (value := run.summary[key]) is not None]
            if not values:
                continue
            mean = sum(values) / len(values)
            spread = [[mean - min(values)], [max(values) - mean]] if len(values) > 1 else None
            style = looks[label]
            axes.barh(
                row, mean, height=0.7, color=style.colour, edgecolor="white", hatch=HATCHES[style.dash], xerr=spread,
                error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#777777"},
            )  # fmt: skip
        axes.set_yticks(range(len(groups)), list(map(as_text, groups)))
        axes.set_xlabel(f"{title} JCT (s)")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlim(left=0)
    # The first policy on top, as in the table.
    panels[0].invert_yaxis()


def legend(figure: "Figure", axes: "Axes", labels: int) -> None:
    """Above the axes, where it hides no curve; the figure grows by its rows. axes: those whose curves it names."""
    width, height = figure.get_size_inches()
    columns = 2 if labels in (2, 4) else 3
    columns = min(labels, round(columns * width / COLUMN))
    figure.set_size_inches(width, height + 0.16 * -(-labels // columns))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns, columnspacing=1.0)
