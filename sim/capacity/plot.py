"""The figure of a Capacity: attainment against load, with the largest loads marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.report.figure import legend, save
from sim.report.style import COLUMN, RC, Look, looks_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.capacity.result import Capacity


def draw(capacity: Capacity, folder: Path) -> list[Path]:
    """Writes capacity.pdf and capacity.png; returns the paths. OutputError."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        return save(figure(capacity), folder / "capacity")


def figure(capacity: Capacity) -> Figure:
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
        axes.axhline(capacity.attain, color="#777777", linewidth=0.8, linestyle=":")
        for label, look in looks.items():
            curve: dict[float, list[float]] = {}
            for point in capacity.points:
                if point.label == label and point.slo_attainment is not None:
                    curve.setdefault(point.load, []).append(point.slo_attainment)
            loads = sorted(curve)
            axes.plot(
                loads, [sum(curve[load]) / len(curve[load]) for load in loads], color=look.colour, linestyle=look.dash,
                marker=look.marker, markevery=[], label=label,
            )  # fmt: skip
            low, high = [min(curve[load]) for load in loads], [max(curve[load]) for load in loads]
            axes.fill_between(loads, low, high, color=look.colour, alpha=0.15, linewidth=0)
            _mark(axes, capacity, label, look)
        axes.set_xlabel(f"load (1 is {capacity.sustained_rps:.3g} requests/s, what fcfs sustains)")
        axes.set_ylabel("share that meets its objectives")
        axes.set_ylim(0, 1.02)
        legend(drawn, axes, 2 if len(looks) in (2, 4) else 3)
    return drawn


def _mark(axes: Any, capacity: Capacity, label: str, look: Look) -> None:
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
