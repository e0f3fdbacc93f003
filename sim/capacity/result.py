"""Capacity: what was found, as a table, a figure and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sim.capacity.folder import Folder
from sim.capacity.found import Findings, Point
from sim.capacity.table import html, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE: Final = 9
"""Loads of the curve of attainment."""


@dataclass(repr=False)
class Capacity(Findings):
    """The largest load at which enough requests meet their objectives, by policy. Printing it shows the table."""

    more: Callable[[Sequence[float]], list[Point]] | None = None
    """runs at these loads, for curve()"""

    def __repr__(self) -> str:
        return self.table()

    def __str__(self) -> str:
        """What was read as what, and the table."""
        return "".join([f"{line}\n" for line in self.reading]) + self.table()

    def table(self) -> str:
        return table(self)

    def _repr_html_(self) -> str:
        return html(self)

    def curve(self) -> list[Point]:
        """Attainment against load: whole runs of all policies and seeds at CURVE loads around what was found, which are
        made when this is asked for first.
        """
        if not self.points and self.more is not None and self.found:
            self.points += self.more(self._loads())
        return self.points

    def _loads(self) -> list[float]:
        ends = [self.lowest if one.load is None else one.load for one in self.found]
        low, high = max(self.lowest, 0.6 * min(ends)), min(self.highest, 1.3 * max(ends))
        return [float(f"{low * (high / low) ** (step / (CURVE - 1)):.3g}") for step in range(CURVE)]

    def save(self, folder: str | Path) -> list[Path]:
        """run.json (settings, provenance), searches.csv, runs.csv, summary.json (the document). Raises OutputError."""
        return Folder(Path(folder)).end(self)

    def plot(self, folder: str | Path | None = None) -> Figure | list[Path]:
        """Attainment against load, with the largest loads marked: paths of capacity.pdf and .png; without a folder the
        figure, which a notebook shows. Makes the runs of curve(). Raises ValueError without anything to draw.
        """
        from sim.capacity.plot import draw, figure

        self.curve()
        return figure(self) if folder is None else draw(self, Path(folder))
