"""What the figures of runs, sweeps and experiments have in common: axes in a grid, readable log axes, a legend above
them, and the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve.atomic_files import atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


KINDS = ("pdf", "png")


def save(figure: Figure, stem: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Writes STEM.pdf and STEM.png. Raises OutputError."""
    paths = []
    for kind in kinds:
        path = stem.with_name(f"{stem.name}.{kind}")
        arguments: dict[str, Any] = {"format": kind, "metadata": {"CreationDate": None} if kind == "pdf" else {}}
        with atomically(path) as draft:
            figure.savefig(draft, **arguments)
        paths.append(path)
    return paths


def cells(figure: Figure, count: int, columns: int = 3, sharex: bool = False, sharey: bool = False) -> list[Axes]:
    """`count` axes in rows of at most `columns`."""
    columns = min(columns, count)
    grid = figure.subplots(-(-count // columns), columns, squeeze=False, sharex=sharex, sharey=sharey)
    found: list[Axes] = list(grid.flat)
    for axes in found[count:]:
        axes.set_visible(False)
    return found[:count]


def plain_log(axis: Axis) -> None:
    """Labels such as 0.05 and 20 on a log axis, few enough not to overlap; call it after drawing the data."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    wide = high / low
    steps = [1.0, 1.5, 2.0, 3.0, 5.0, 7.0] if wide < 6 else [1.0, 2.0, 5.0] if wide < 60 else [1.0, 3.0]
    if wide >= 600:
        steps = [1.0]
    axis.set_major_locator(LogLocator(subs=steps) if wide > 2.5 else MaxNLocator(3))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """One legend for the figure, above the axes, with the marker of each row."""
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for line in axes.get_lines():
        label = str(line.get_label())
        if label.startswith("_") or label in labels:
            continue
        handles.append(Line2D([], [], color=line.get_color(), linestyle=line.get_linestyle(), marker=line.get_marker()))
        labels.append(label)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.0)
