"""The figure of a Capacity: attainment against load, with the largest loads marked."""

from __future__ import annotations

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
WIDE: Final = 5.0
"""Highest over lowest load from which the axis is a log one."""


def draw(capacity: Findings, folder: Path) -> list[Path]:
    """Writes capacity.pdf and capacity.png; returns the paths. OutputError."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        return save(figure(capacity), folder / "capacity")


def figure(capacity: Findings) -> Figure:
    """Lines are means over seeds, bands reach from the smallest to the largest seed; a mark on the dotted line of the
    objective is the largest load, with its interval. Raises ValueError without anything to draw.
    """
    if not capacity.found:
        raise ValueError("There is nothing to draw: no search was finished.")
    import matplotlib as mpl

    from sim.report.picture import Picture

    with mpl.rc_context(RC):
        drawn = Picture(figsize=(COLUMN, 2.5), layout="constrained")
        axes: Any = drawn.subplots()
        looks = looks_of({label: mine[0].policy for label in capacity.labels if (mine := capacity.of(label))})
        loads = _loads(capacity)
        axes.axhline(capacity.attain, color="#777777", linewidth=0.8, linestyle=":")
        for label, look in looks.items():
            curves = np.array([_interpolated(capacity, label, one.seed, loads) for one in capacity.of(label)])
            axes.plot(
                loads, curves.mean(0), color=look.colour, linestyle=look.dash, marker=look.marker, markevery=[],
                label=as_text(label),
            )  # fmt: skip
            axes.fill_between(loads, curves.min(0), curves.max(0), color=look.colour, alpha=0.15, linewidth=0)
            _mark(axes, capacity, label, look)
        axes.set_xlabel(f"load (1 is {capacity.sustained_rps:.3g} requests/s, what fcfs sustains)")
        axes.set_ylabel("share that meets its objectives")
        axes.set_ylim(0, 1.02)
        if loads[-1] > WIDE * loads[0]:
            axes.set_xscale("log")
            plain_log(axes.xaxis)
        legend(drawn, axes, 2 if len(looks) in (2, 4) else 3)
    return drawn


def _loads(capacity: Findings) -> Floats:
    """At which the curves are drawn: from the lowest to the highest load that all have in common."""
    ends = [point.load for point in capacity.points]
    return np.geomspace(min(ends), max(ends), POINTS)


def _interpolated(capacity: Findings, label: str, seed: int, loads: Floats) -> Floats:
    """Attainment on one seed, between all of its runs that went to their ends."""
    known = {
        point.load: point.slo_attainment for point in capacity.runs_of(label, seed) if point.slo_attainment is not None
    }
    at = sorted(known)
    return np.interp(np.log(loads), np.log(at), [known[load] for load in at])


def _mark(axes: Any, capacity: Findings, label: str, look: Look) -> None:
    """The largest load; an arrow to the side on which it lies where it is a bound."""
    of = capacity.load(label)
    if of.mean is None:
        return
    spread = None if of.low is None or of.high is None else [[of.mean - of.low], [of.high - of.mean]]
    marker = {"": look.marker, "at least": ">", "at most": "<"}[of.side]
    axes.errorbar(
        [of.mean], [capacity.attain], xerr=spread, marker=marker, color=look.colour, linestyle="none",
        elinewidth=1.0, capsize=2, markeredgecolor="white", markeredgewidth=0.5, zorder=5,
    )  # fmt: skip
