"""A result in a notebook: its line, and its tables as HTML, of the cells that the text tables have.

Whatever becomes an HTML table here goes through html_table(), which escapes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fastserve.html_table import html_table
from sim.report.columns import Show, shown
from sim.report.header import header
from sim.report.layout import average, number
from sim.report.notes import notes, resampled_lines
from sim.report.programs import has_programs, program_notes, program_rows
from sim.report.replicas import has_replicas, replica_notes, replica_rows
from sim.report.run import Run
from sim.report.table import by_label, has_slo, rows

__all__ = ["html_table", "in_a_line", "result_html"]

MOST_TOLD = 6
"""Labels whose mean JCT a line tells."""


def in_a_line(runs: Sequence[Run], settings: Mapping[str, Any], planned: int) -> str:
    """What a result is of, and the mean JCT of its labels."""
    cut = f", {planned - len(runs)} of {planned} runs missing" if planned > len(runs) else ""
    if not runs:
        return f"<Result of {settings.get('trace')}: no run was finished{cut}>"
    groups = by_label(runs)
    told = [f"{label} {number(average(group, 'mean_jct_s', settings))}" for label, group in groups.items()]
    more = " ..." if len(told) > MOST_TOLD else ""
    seeds = len({run.seed for run in runs})
    sizes = f"{len(groups)} row{'s' * (len(groups) > 1)}, {seeds} seed{'s' * (seeds > 1)}{cut}"
    return f"<Result of {settings.get('trace')}: {sizes}; mean JCT s: {', '.join(told[:MOST_TOLD])}{more}>"


def result_html(
    runs: Sequence[Run], settings: Mapping[str, Any], reading: Sequence[str] = (), show: Show = None
) -> str:
    """The tables of table.table(), with the settings folded."""
    if not runs:
        return html_table([["No run was finished."]], heading=0)
    groups, chosen = by_label(runs), shown(show, has_slo(runs))
    parts = []
    if has_programs(groups):
        below = program_notes(groups, settings)
        parts.append(html_table(program_rows(groups, settings, chosen), above=["programs"], below=below))
    told = _unwrapped([*resampled_lines(groups, settings), *notes(groups, settings, chosen.requests)])
    parts.append(html_table(rows(runs, settings, show), above=["requests"] if parts else [], below=told))
    if has_replicas(groups):
        parts.append(html_table(replica_rows(groups, settings), below=replica_notes(groups)))
    about = "\n".join([*reading, *_unwrapped(header(runs, settings))])
    folded = f'<p style="white-space:pre-wrap;font-size:90%">{escape(about)}</p>'
    return "\n".join([*parts, f"<details><summary>settings</summary>{folded}</details>"])


def _unwrapped(lines: Iterable[str]) -> list[str]:
    """Lines that were broken for a terminal, whole again: a page breaks them by itself."""
    found: list[str] = []
    for line in lines:
        if line.startswith("  ") and found:
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
    return found
