"""What every notebook does: find the runs of one scale, show a figure at print size, show a table."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from IPython.display import Image, Markdown, display

from experiments._lib.case import Row
from experiments._lib.claim import Claim, shown
from experiments._lib.figure import draw
from experiments._lib.sweep import ROOT, SCALES, IncompleteError, Outcome, finished
from fastserve.metrics.summary import Ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm in a library; no page shows a progress bar

FIGURES = ROOT / "build" / "notebooks"
"""where figures are written, as PDF for a paper and as PNG"""
PIXELS = 150  # on screen, per inch of print


class Runs:
    """The runs that a notebook reads, all of one scale.

    scale: smoke, small or paper; by default what FASTSERVE_SCALE says, else small where all of them are complete and of
    the present source, else smoke. Raises IncompleteError, which says what to run.
    """

    def __init__(self, *experiments: str, scale: str | None = None) -> None:
        wanted = scale or os.environ.get("FASTSERVE_SCALE")
        if wanted is not None and wanted not in SCALES:
            raise ValueError(f"there is no scale {wanted!r}; choose one of {', '.join(SCALES)}")
        self._outcomes = _complete(experiments, wanted) if wanted else _best(experiments)
        self.scale = wanted or next(iter(self._outcomes.values())).scale

    def __getitem__(self, experiment: str) -> list[Row]:
        return self._outcomes[experiment].rows

    def claims(self, experiment: str) -> list[Claim]:
        """What the experiment says of its rows, beside what was published."""
        return self._outcomes[experiment].claims

    def __iter__(self) -> Iterator[str]:
        return iter(self._outcomes)

    def _repr_markdown_(self) -> str:
        lines = []
        for name, outcome in self._outcomes.items():
            about = json.loads((outcome.folder / "run.json").read_text(encoding="utf-8"))["provenance"]
            seeds = len({row.seed for row in outcome.rows})
            commit = f"{str(about['commit'])[:8]}{', with changes' if about['dirty'] else ''}"
            lines.append(f"* `{name}`: {len(outcome.rows)} runs, {seeds} seeds, commit {commit}")
        warning = "Far too short to conclude from: it shows that everything works. " if self.scale == "smoke" else ""
        head = f"Scale **{self.scale}**. {warning}Rerun at another one: `python -m notebooks --scale small`."
        return "\n".join([head, "", *lines])


def _complete(experiments: Iterable[str], scale: str) -> dict[str, Outcome]:
    return {name: finished(name, scale) for name in experiments}


def _best(experiments: Iterable[str]) -> dict[str, Outcome]:
    try:
        return _complete(experiments, "small")
    except IncompleteError:
        return _complete(experiments, "smoke")


def show(name: str, size: tuple[float, float], fill: Callable[[Figure], None]) -> None:
    """Draws a figure of `size` inches in the project's looks; writes build/notebooks/NAME.pdf and .png; shows it."""
    draw(FIGURES, name, size, fill)
    display(Image(filename=str(FIGURES / f"{name}.png"), width=round(size[0] * PIXELS)))  # type: ignore[no-untyped-call]


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
