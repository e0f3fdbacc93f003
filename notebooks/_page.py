"""What every notebook does: find the runs of one scale, show a figure at print size, show a table."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.display import Image, Markdown, display

from experiments._lib.case import Row
from experiments._lib.claim import Claim, shown
from experiments._lib.committed_rows import Found, available
from experiments._lib.figure import PAGE, draw
from experiments._lib.sweep import ROOT, SCALES, IncompleteError
from fastserve.metrics.summary import Ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm in a library; no page shows a progress bar

FIGURES = ROOT / "build" / "notebooks"
"""where figures are written, as PDF for a paper and as PNG"""
PIXELS = 150  # on screen, per inch of print


class Runs:
    """The runs that a notebook reads, of one scale: those made here from the present source, else the committed ones.

    scale: smoke, small or paper; by default what FASTSERVE_SCALE says, else small where all of them are there, else
    smoke. Raises IncompleteError, which says what to run.
    """

    def __init__(self, *experiments: str, scale: str | None = None) -> None:
        wanted = scale or os.environ.get("FASTSERVE_SCALE")
        if wanted is not None and wanted not in SCALES:
            raise ValueError(f"there is no scale {wanted!r}; choose one of {', '.join(SCALES)}")
        self._runs = _available(experiments, wanted) if wanted else _best(experiments)
        self.scale = wanted or next(iter(self._runs.values())).outcome.scale

    def __getitem__(self, experiment: str) -> list[Row]:
        return self._runs[experiment].outcome.rows

    def claims(self, experiment: str) -> list[Claim]:
        """What the experiment says of its rows, beside what was published."""
        return self._runs[experiment].outcome.claims

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def _repr_markdown_(self) -> str:
        lines = []
        for name, (outcome, about, ours) in self._runs.items():
            seeds = len({row.seed for row in outcome.rows})
            commit = f"{str(about['commit'])[:8]}{', with changes' if about['dirty'] else ''}"
            where = "" if ours else f", committed rows of {str(about['written_at'])[:10]}"
            lines.append(f"* `{name}`: {len(outcome.rows)} runs, {seeds} seeds, commit {commit}{where}")
        head = f"Scale **{self.scale}**. "
        if self.scale == "smoke":
            head += "Far too short to conclude from: it shows that everything works. "
        if not all(run.made_here for run in self._runs.values()):
            head += (
                "Nothing was computed for what is called committed: its rows came with the source, and your own run of "
                f"it, `python -m experiments.NAME --scale {self.scale}`, takes their place. "
            )
        head += "Another scale: `python -m notebooks --scale smoke`, or `paper` where such runs are there."
        return "\n".join([head, "", *lines])


def _available(experiments: Iterable[str], scale: str) -> dict[str, Found]:
    return {name: available(name, scale) for name in experiments}


def _best(experiments: Iterable[str]) -> dict[str, Found]:
    try:
        return _available(experiments, "small")
    except IncompleteError:
        return _available(experiments, "smoke")


def show(name: str, size: tuple[float, float], fill: Callable[[Figure], None]) -> None:
    """Draws a figure of `size` inches in the project's looks; writes build/notebooks/NAME.pdf and .png; shows it."""
    draw(FIGURES, name, size, fill)
    display(Image(filename=str(FIGURES / f"{name}.png"), width=round(size[0] * PIXELS)))  # type: ignore[no-untyped-call]


def picture(path: Path) -> None:
    """Shows a figure that is committed, at print size."""
    display(Image(filename=str(path), width=round(PAGE * PIXELS)))  # type: ignore[no-untyped-call]


def mark(
    axes: Axes, gain: Ratio | None, row: float, colour: str, marker: str, label: str | None = None, size: float = 4
) -> None:
    """A ratio at its height on a horizontal axis, with its interval; nothing where there is none."""
    if gain is not None:
        axes.errorbar(
            [gain.mean], [row], xerr=[[side] for side in interval(gain)], color=colour, marker=marker, markersize=size,
            linestyle="none", label=label,
        )  # fmt: skip


def interval(gain: Ratio) -> tuple[float, float]:
    """How far a ratio's interval reaches below and above it; nowhere where one seed leaves none."""
    if gain.low is None or gain.high is None:
        return 0.0, 0.0
    return max(gain.mean - gain.low, 0.0), max(gain.high - gain.mean, 0.0)


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Shows a table; a Ratio with its interval, a float with three digits."""
    rows = [" | ".join(head), " | ".join("---" for _ in head)]
    rows += [" | ".join(_cell(value) for value in line) for line in lines]
    display(Markdown("\n".join(rows)))  # type: ignore[no-untyped-call]


def _cell(value: object) -> str:
    if isinstance(value, Ratio):
        return shown(value)
    if value is None:
        return "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
