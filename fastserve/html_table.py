"""The one way from the cells of a table to HTML: escaped, and readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL = "padding:.15em .6em;text-align:"
_NOTE = "margin:.2em 0;font-size:90%;white-space:pre-wrap"


def html_table(
    rows: Sequence[Sequence[str]], *, heading: int = 2, above: Sequence[str] = (), below: Sequence[str] = ()
) -> str:
    """Rows of equal length, the first `heading` of which are the heading, its lines one above the other: the rows that
    sim.report.layout.aligned() takes. The first column is to the left, the others, of numbers, to the right.

    above, below: lines of text; without rows they are all there is. All of it is text and none is markup; colours are
    the page's.
    """
    lines = ['<div class="fastserve">', *_notes(above)]
    if rows:
        lines.append('<table style="border-collapse:collapse">')
        if heading:
            columns = [
                [escape(row[i].strip()) for row in rows[:heading] if row[i].strip()] for i in range(len(rows[0]))
            ]
            cells = ["<br>".join(column) for column in columns]
            lines.append(f"<thead>{_row('th', cells, 'border-bottom:1px solid;')}</thead>")
        lines += ["<tbody>", *[_row("td", [escape(cell.strip()) for cell in row]) for row in rows[heading:]]]
        lines.append("</tbody></table>")
    return "\n".join([*lines, *_notes(below), "</div>"])


def _row(tag: str, cells: Sequence[str], style: str = "") -> str:
    sides = ["left", *["right"] * (len(cells) - 1)]
    columns = [f'<{tag} style="{style}{_CELL}{side}">{cell}</{tag}>' for side, cell in zip(sides, cells, strict=True)]
    return f"<tr>{''.join(columns)}</tr>"


def _notes(lines: Sequence[str]) -> list[str]:
    return [f'<p style="{_NOTE}">{escape(line)}</p>' for line in lines if line.strip()]
