"""Figures of agents at once: the thrash curve, the working set against the pool, and what host memory is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.case import Row, points
from experiments._lib.figure import PAGE, curve, draw, legend, look_of, plain_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = {
    "programs_per_hour": "programs an hour",
    "program_time_mean_s": "mean program time (s)",
    "hit_rate": "hit rate (of prompt tokens)",
    "p50_ttft_s": "median TTFT (s)",
    "p99_ttft_s": "P99 TTFT (s)",
    "ttft_first_turn_p50_s": "median TTFT of first turns (s)",
    "ttft_first_turn_p99_s": "P99 TTFT of first turns (s)",
    "max_ttft_s": "longest TTFT (s)",
    "held_max_s": "longest hold (s)",
}
FEW = ("programs_per_hour", "hit_rate", "p50_ttft_s")
LINEAR = ("programs_per_hour", "hit_rate")
ACROSS = {"hit_rate_unlimited": ("unlimited cache", ":"), "hit_rate_belady": ("Belady, on {}'s schedule", "--")}


def thrash_curve(folder: Path, name: str, rows: Sequence[Row], measures: Sequence[str] = tuple(MEASURES)) -> None:
    """Measures over agents at once, a line per policy."""
    lines = -(-len(measures) // 3)

    def fill(figure: Figure) -> None:
        labels = list(dict.fromkeys(str(row.at["policy"]) for row in rows))
        grid: Any = figure.subplots(lines, 3, sharex=True, squeeze=False)
        for axes, measure in zip(grid.flat, measures, strict=True):
            for label in labels:
                curve(axes, points(rows, policy=label), "agents", measure, label)
            if measure == "hit_rate":
                _bounds(axes, rows, "fcfs" if "fcfs" in labels else labels[0])
            _from_zero(axes) if measure in LINEAR else _logarithmic(axes)
            axes.set_title(MEASURES[measure])
        figure.supxlabel("agents at once", fontsize=8)
        legend(figure, grid.flat[0], min(len(labels), 7))

    draw(folder, name, (PAGE, 0.7 + 1.75 * lines), fill)


def _from_zero(axes: Axes) -> None:
    """With room above for the highest marker, however little the values differ."""
    top = max(axes.dataLim.y1 * 1.06, axes.get_ylim()[1])
    axes.set_ylim(0, top if np.isfinite(top) and top > 0 else 1)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("symlog" if axes.dataLim.y0 <= 0 else "log")
    if axes.get_yscale() == "log":
        plain_log(axes.yaxis)


def _bounds(axes: Axes, rows: Sequence[Row], base: str) -> None:
    """What caches that are better than any would find."""
    for measure, (words, dash) in ACROSS.items():
        words, mine = words.format(base), points(rows, policy=base)
        xs, ys = [float(one.at["agents"]) for one in mine], [one.mean(measure) for one in mine]
        axes.plot(xs, ys, color="#888888", linewidth=0.9, linestyle=dash, label=f"_{words}")
        axes.annotate(words, (xs[-1], ys[-1]), ha="right", va="bottom" if dash == ":" else "top", fontsize=5.5,
                      color="#555555")  # fmt: skip
    axes.set_ylim(0, 1.05)


def pool_over_time(folder: Path, name: str, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """The working set against the pool, over time, at the fewest agents, in the middle and at the most."""
    counts = sorted({int(row.at["agents"]) for row in rows})
    shown = list(dict.fromkeys([counts[0], counts[len(counts) // 2], counts[-1]]))

    def fill(figure: Figure) -> None:
        grid: Any = figure.subplots(1, len(shown), sharey=True, squeeze=False)
        for axes, agents in zip(grid[0], shown, strict=True):
            there = [row for row in rows if row.at["agents"] == agents and row.seed == 0]
            for one in [row for row in there if row.at["policy"] in labels]:
                _line(axes, one.numbers, str(one.at["policy"]))
            _pool(axes, there[0].numbers)
            axes.set_title(f"{agents} agents at once")
        grid[0][0].set_ylabel("contexts at work\n(1,000 tokens)")
        figure.supxlabel("time (1,000 s)", fontsize=8)
        legend(figure, grid[0][0], 4)

    draw(folder, name, (PAGE, 2.2), fill)


def _line(axes: Axes, numbers: Mapping[str, Any], label: str) -> None:
    values = np.array(numbers["working_set"]) / 1000
    times = np.arange(len(values)) * numbers["working_set_step_s"] / 1000
    axes.plot(times, values, color=look_of(label).colour, label=label, linewidth=0.9)


def _pool(axes: Axes, numbers: Mapping[str, Any]) -> None:
    if numbers["pool_tokens"] is not None:
        pool = numbers["pool_tokens"] / 1000
        axes.axhline(pool, color="#888888", linewidth=0.9, linestyle=":")
        axes.annotate("KV pool", (0.99, pool), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)


def over(folder: Path, name: str, rows: Sequence[Row], axis: str, title: str) -> None:
    """Throughput, program time and the longest wait over one axis, a line per policy."""

    def fill(figure: Figure) -> None:
        grid: Any = figure.subplots(1, 3, sharex=True)
        for axes, measure in zip(grid, ("programs_per_hour", "program_time_mean_s", "max_ttft_s"), strict=True):
            for label in dict.fromkeys(str(row.at["policy"]) for row in rows):
                curve(axes, points(rows, policy=label), axis, measure, label)
            axes.set_ylim(bottom=0)
            axes.set_title(MEASURES[measure])
        figure.supxlabel(title, fontsize=8)
        legend(figure, grid[0], 6)

    draw(folder, name, (PAGE, 2.3), fill)
