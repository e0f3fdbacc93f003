"""Figures of experiments, in the style of sim.report.style: one colour per policy, PDF and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from experiments._lib.case import Point
from sim.report.figure import KINDS, cells, legend, plain_log, save
from sim.report.style import COLUMN, PAGE, RC, Look, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLUMN", "PAGE", "cells", "curve", "draw", "legend", "look_of", "plain_log", "published_points"]

VARIANTS = {"artifact": 1, "no aging": 2, "paper": 1, "decay": 1}
"""Variants in brackets in a label: by how many dashes they are beyond their policy's."""


def look_of(label: str) -> Look:
    """The style of a row: its policy's, with another dash for a variant."""
    policy = label.split(" ")[0]
    return look(policy, next((beyond for variant, beyond in VARIANTS.items() if variant in label), 0))


def draw(
    folder: Path,
    name: str,
    size: tuple[float, float],
    fill: Callable[[Figure], None],
    kinds: Sequence[str] = KINDS,
) -> None:
    """Makes a figure of `size` inches, lets `fill` draw on it, and writes NAME.pdf and NAME.png."""
    from matplotlib.figure import Figure

    with mpl.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        fill(figure)
        save(figure, folder / name, kinds)


def curve(axes: Axes, points: Sequence[Point], x: str, measure: str, label: str, style: Look | None = None) -> None:
    """Means over seeds, joined; a band spans the seeds. Saturated points are hollow; a cross if a run was stopped.

    Jobs of a stopped run are censored: its point is a lower bound.
    """
    style = style or look_of(label)
    xs = [float(point.at[x]) if x in point.at else point.mean(x) for point in points]
    ys = [point.mean(measure) for point in points]
    axes.plot(xs, ys, color=style.colour, linestyle=style.dash, label=label, marker=style.marker, markevery=[])
    band = np.array([point.spread(measure) for point in points])
    if len(points):
        axes.fill_between(xs, band[:, 0], band[:, 1], color=style.colour, alpha=0.15, linewidth=0)
    for at, value, point in zip(xs, ys, points, strict=True):
        fill = style.colour if point.status == "ok" else "white"
        marker = "x" if any(point.values("collapsed")) else style.marker
        axes.plot([at], [value], marker=marker, markerfacecolor=fill, markeredgecolor=style.colour, linestyle="none")


def published_points(axes: Axes, rates: Sequence[float], values: Sequence[float], style: Look) -> None:
    """A published curve, thin and dotted behind ours."""
    axes.plot(
        rates, values, color=style.colour, alpha=0.45, linewidth=0.7, linestyle=":", marker=".", markersize=3, zorder=1
    )
