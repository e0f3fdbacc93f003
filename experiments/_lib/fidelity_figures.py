"""Figures of predictions against live runs, whatever ran live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.case import Row, points
from experiments._lib.errors import COMPARED, draw_jobs, error, said
from experiments._lib.figure import COLUMN, PAGE, draw, legend, look_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(rows: list[Row], folder: Path) -> None:
    cells = points(rows)

    def scatter(figure: Figure) -> None:
        panels: Any = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, of in zip(panels, ("sim", "tempo"), strict=True):
            draw_jobs(axes, cells, of)
        panels[0].set_ylabel("simulated (s)")
        legend(figure, panels[0], columns=4)

    def bars(figure: Figure) -> None:
        axes: Any = figure.subplots()
        named: set[str] = set()
        for row, cell in enumerate(cells):
            style = look_of(str(cell.at["policy"]))
            for of, (marker, label, _) in COMPARED.items():
                value = error(cell, "mean_jct_s", of)
                if value is not None:
                    axes.plot(100 * value, row, marker, color=style.colour, label=None if of in named else label)
                    named.add(of)
        axes.axvline(0, color="#777777", linewidth=0.6)
        axes.set_yticks(range(len(cells)), [said(cell.at) for cell in cells])
        axes.invert_yaxis()
        axes.set_xlabel("mean JCT over live, less 1 (%)")
        figure.legend(loc="outside upper center", ncols=2)

    draw(folder, "jobs", (PAGE, 3.2), scatter)
    draw(folder, "errors", (COLUMN, 1.4 + 0.25 * len(cells)), bars)
