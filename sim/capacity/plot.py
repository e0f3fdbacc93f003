"""The figure of a Capacity: attainment against load, with the largest loads marked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.capacity.found import Findings
from sim.report.figure import legend, plain_log, save
from sim.report.style import COLUMN, RC, Look, as_text, looks_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Floats = NDArray[np.float64]

POINTS: Final = 200
"""of a curve"""
WIDE: Final = 6.0
"""Highest over lowest load from which the axis is a log one."""
FEW: Final = 3
"""Policies whose bands can be told apart."""


def draw(capacity: Findings, folder: Path) -> list[Path]:
    """Writes capacity.pdf and capacity.png; returns the paths. OutputError."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        return save(figure(capacity), folder / "capacity")


def figure(capacity: Findings) -> Figure:
    """Lines are means over seeds, bands reach from the smallest to the largest seed; a mark on the dotted line of the
    objective is the largest load, whose interval is below. Raises ValueError without anything to draw.
    """
    if not capacity.found:
        raise ValueError("There is nothing to draw: no search was finished.")
    import matplotlib as mpl

    from sim.report.picture import Picture

    looks = looks_of({label: mine[0].policy for label in capacity.labels if (mine := capacity.of(label))})
    below = 0.14 * len(looks) + 0.05
    with mpl.rc_context(RC):
        drawn = Picture(figsize=(COLUMN, 2.5 + below), layout="constrained")
        curves, rows = drawn.subplots(2, 1, sharex=True, height_ratios=[1.8, below])
        _curves(curves, capacity, looks)
        for place, (label, look) in enumerate(looks.items()):
            _largest(curves, rows, capacity, label, look, place)
        rows.set_ylim(len(looks) - 0.5, -0.5)
        rows.set_yticks([])
        rows.grid(visible=False, axis="y")
        rows.set_ylabel("largest", rotation=0, ha="right", va="center")
        rows.set_xlabel(f"load (1 is {capacity.sustained_rps:.3g} requests/s, what fcfs sustains)")
        low, high = rows.get_xlim()
        if low <= 0 or high > WIDE * low:
            rows.set_xscale("log")
            plain_log(rows.xaxis)
        legend(drawn, curves, 2 if len(looks) in (2, 4) else 3)
    return drawn


def _curves(axes: Any, capacity: Findings, looks: Mapping[str, Look]) -> None:
    loads = _loads(capacity)
    axes.axhline(capacity.attain, color="#777777", linewidth=0.8, linestyle=":")
    for label, look in looks.items():
        known = np.array([_interpolated(capacity, label, one.seed, loads) for one in capacity.of(label)])
        axes.plot(
            loads, known.mean(0), color=look.colour, linestyle=look.dash, marker=look.marker, markevery=[],
            label=as_text(label),
        )  # fmt: skip
        shade = 0.15 if len(looks) <= FEW else 0.07
        axes.fill_between(loads, known.min(0), known.max(0), color=look.colour, alpha=shade, linewidth=0)
    axes.set_ylabel("share that meets its objectives")
    axes.set_ylim(0, 1.02)


def _loads(capacity: Findings) -> Floats:
    """At which the curves are drawn: from the lowest to the highest load that all have in common."""
    ends = [point.load for point in capacity.points or [at for one in capacity.found for at in one.tried]]
    return np.geomspace(min(ends), max(ends), POINTS)


def _interpolated(capacity: Findings, label: str, seed: int, loads: Floats) -> Floats:
    """Attainment on one seed, between all of its runs that went to their ends."""
    known = {
        point.load: point.slo_attainment for point in capacity.runs_of(label, seed) if point.slo_attainment is not None
    }
    at = sorted(known)
    return np.interp(np.log(loads), np.log(at), [known[load] for load in at])


def _largest(curves: Any, rows: Any, capacity: Findings, label: str, look: Look, place: int) -> None:
    """A mark on the line of the objective, and a row with its interval; an arrow towards where it lies where it is a
    bound.
    """
    of = capacity.load(label)
    if of.mean is None:
        return
    marker = {"": look.marker, "at least": ">", "at most": "<"}[of.side]
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5, "zorder": 5}
    curves.plot([of.mean], [capacity.attain], marker=marker, color=look.colour, linestyle="none", **edge)
    spread = None if of.low is None or of.high is None else [[of.mean - of.low], [of.high - of.mean]]
    rows.errorbar(
        [of.mean], [place], xerr=spread, marker=marker, color=look.colour, linestyle="none", elinewidth=1.0, capsize=2,
        **edge,
    )  # fmt: skip
