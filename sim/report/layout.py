"""Layout of text tables: numbers, columns, ratios; figures of a row as means over its seeds."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from fastserve.metrics.intervals import Ratio
from sim.report.columns import COUNTS
from sim.report.run import Run

WIDTH = 100
LONG = 13


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first two rows are the heading; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(2, "-" * len(lines[0]))
    return [line.rstrip() for line in lines]


def too_wide(lines: Sequence[str]) -> bool:
    return max(map(len, lines)) > WIDTH


def wrapped(text: str) -> list[str]:
    """A note, as lines."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def left_out(spared: Sequence[str]) -> list[str]:
    """What is said of columns for which there was no room."""
    return (
        wrapped(f"no room for {', '.join(spared)}: name them (--show default,{spared[-1]}) or take --show wide")
        if spared
        else []
    )


def first_or_row(first: str) -> str:
    """The heading of a ratio of the first label to that of a row; a long label would be wider than the ratios."""
    return f"{first} / row" if len(first) <= LONG else "first / row"


def ratio_text(ratio: Ratio | None, marked: bool) -> str:
    """marked: one of the two sides is."""
    if ratio is None:
        return "-"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.mean:.2f}" + " *" * marked
    return f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" + " *" * marked


def figure(group: Sequence[Run], key: str, settings: Mapping[str, object]) -> str:
    """The mean of a column over seeds, as it is written; what counts something is written whole where it is whole."""
    value = average(group, key, settings)
    return f"{value:.0f}" if value is not None and key in COUNTS and value == int(value) else number(value)


def average(group: Sequence[Run], key: str, settings: Mapping[str, object]) -> float | None:
    found = [value for run in group if (value := _value(run, key, settings)) is not None]
    return sum(found) / len(found) if found else None


def _value(run: Run, key: str, settings: Mapping[str, object]) -> float | None:
    if key == "swap_gib":
        return (run.summary["swapped_out_gib"] or 0.0) + (run.summary["swapped_in_gib"] or 0.0)
    value = run.summary.get(key, settings.get(key))
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def number(value: float | None) -> str:
    """Three significant digits, all digits of the integer part; no exponent in the usual range."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 99_999.5 or abs(value) < 0.0005:
        return f"{value:.1e}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 5)}f}"
