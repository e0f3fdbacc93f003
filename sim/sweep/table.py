"""A sweep as text: a block per measure with a line per place and a column per policy, the ratios to the first policy,
and where one stops winning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastserve.metrics.intervals import resampled
from fastserve.policies.in_words import policy_in_words
from sim.report.columns import HEADINGS, RATIO, Show, shown
from sim.report.header import header
from sim.report.html import html_table
from sim.report.layout import aligned, number, ratio_text, too_wide, wrapped
from sim.report.run import Run
from sim.sweep.found import JCT, Found, in_words
from sim.sweep.points import Point, key

USUAL = (JCT, RATIO, "p99_jct_s")
WITH_SLO = (*USUAL, "p99_ttft_s", "goodput_rps", "slo_attainment")
"""Where any job has an objective."""

NOT_CROSSED = (RATIO, "slo_attainment")
"""The ratio is of a measure that is told, and who attains more has more goodput."""

MARKS = {"saturated": "*", "collapsed": "**"}
MEANING = {
    "saturated": "* saturated: the queue grew to the end in some seed, so the figure depends on the trace's length",
    "collapsed": "** collapsed: stopped when more jobs were waiting than --max-backlog allows: a lower bound",
    "failed": "failed: no run could be made",
}
MOST_NAMED = 5
"""Runs that failed of which each is told."""


class Block(NamedTuple):
    title: str
    rows: list[list[str]]
    """the heading, of two rows, and a row per place"""
    axes: int
    """columns of axes, before those of policies"""


def table(sweep: Found, show: Show = None) -> str:
    """See Sweep.table()."""
    names = measures(sweep, show)
    if not sweep.rows:
        return _lines(["No run was finished.", *_failures(sweep)])
    lines = [*_above(sweep), ""]
    for block in blocks(sweep, names):
        for part in _parts(block):
            lines += [block.title, *aligned(part)[1:], ""]  # the upper row of the heading is empty
    return "\n".join(lines) + "\n" + _lines(_below(sweep, names))


def _lines(sentences: Sequence[str]) -> str:
    return "".join([f"{line}\n" for sentence in sentences for line in wrapped(sentence)])


def html(sweep: Found) -> str:
    """The same for a notebook."""
    names = measures(sweep, None)
    if not sweep.rows:
        return html_table([["No run was finished."]], heading=0, below=_failures(sweep))
    parts = [*blocks(sweep, names)]
    return "\n".join(
        html_table(
            block.rows,
            above=[sweep.title, block.title] if block is parts[0] else [block.title],
            below=_below(sweep, names) if block is parts[-1] else (),
        )
        for block in parts
    )


def measures(sweep: Found, show: Show) -> list[str]:
    """What is shown. Raises ValueError for a name that is none."""
    slo = any(row.numbers.get("slo_attainment") is not None for row in sweep.rows)
    if show is None:
        return list(WITH_SLO if slo else USUAL)
    found = shown(show, slo)
    if found.every:
        return [name for name in HEADINGS if name == RATIO or _has(sweep, name)]
    asked = [*(found.requests if found.asked else ()), *(found.programs if found.programs_asked else ())]
    return list(asked)


def _has(sweep: Found, name: str) -> bool:
    return any(row.numbers.get(name) is not None for row in sweep.rows)


def blocks(sweep: Found, names: Sequence[str]) -> Iterator[Block]:
    """One for each measure that any run has."""
    for name in names:
        if name == RATIO:
            if len(sweep.labels) > 1:
                yield _ratios(sweep)
        elif _has(sweep, name):
            yield _block(sweep, heading(name), [(point.label, point.at, _cell(point)) for point in sweep.curve(name)])


def heading(name: str) -> str:
    """Of a measure, in one line."""
    return " ".join([part for part in HEADINGS.get(name, (name, "")) if part])


def _ratios(sweep: Found) -> Block:
    first = sweep.labels[0]
    places = {key(at): at for at in sweep.places}
    found = sweep.ratio_of(JCT, first)
    cells = [(label, places[place], ratio_text(ratio, marked=False)) for (label, place), ratio in found.items()]
    return _block(sweep, f"mean JCT, {first} over the column, paired by seed (above 1: the column is quicker)", cells)


def _block(sweep: Found, title: str, cells: Sequence[tuple[str, dict[str, Any], str]]) -> Block:
    """cells: of a label at a place. A knob that only some policies have is in the names of the columns, unless it is
    what everything is shown over.
    """
    own = [name for name in sweep.own_knobs if name != sweep.axis]
    axes = [name for name in sweep.axes if name not in own]
    columns: dict[str, None] = {}
    rows: dict[Any, dict[str, str]] = {}
    places = {key(place): place for at in sweep.places for place in [{n: v for n, v in at.items() if n not in own}]}
    for label, at, text in cells:
        column = " ".join([label, *(f"{name}={at[name]}" for name in at if name in own)])
        columns[column] = None
        rows.setdefault(key({name: value for name, value in at.items() if name not in own}), {})[column] = text
    names = [name.replace("_", " ") for name in axes] or [""]
    body = [
        [*([_value(at.get(name)) for name in axes] or [""]), *(rows[place].get(column, "") for column in columns)]
        for place, at in places.items()
        if place in rows
    ]
    return Block(title, [[""] * (len(names) + len(columns)), [*names, *columns], *body], len(names))


def _value(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cell(point: Point) -> str:
    if point.spread is None:
        return "failed" if point.status == "failed" else "-"
    return f"{number(point.spread.mean)} {MARKS.get(point.status, '')}".rstrip()


def _parts(block: Block) -> Iterator[list[list[str]]]:
    """The columns side by side, as many as there is room for, and the others below them."""
    head = [row[: block.axes] for row in block.rows]
    start = block.axes
    while start < len(block.rows[0]):
        stop = start + 1
        while stop < len(block.rows[0]) and not too_wide(aligned(_joined(head, block.rows, start, stop + 1))):
            stop += 1
        yield _joined(head, block.rows, start, stop)
        start = stop


def _joined(head: Sequence[list[str]], rows: Sequence[list[str]], start: int, stop: int) -> list[list[str]]:
    return [[*front, *row[start:stop]] for front, row in zip(head, rows, strict=True)]


def _above(sweep: Found) -> list[str]:
    runs = [Run(row.policy, row.label, row.seed, row.told, {}, row.numbers) for row in sweep.rows]
    axes = "; ".join(in_words(sweep.axes))
    return [*header(runs, sweep.settings), *(wrapped(f"sweep over {axes}") if axes else [])]


def _below(sweep: Found, names: Sequence[str]) -> list[str]:
    """A sentence each."""
    lines: list[str] = []
    if RATIO in names and len(sweep.labels) > 1:
        seeds = len({row.seed for row in sweep.rows})
        text = resampled(seeds, sweep.settings.get("resampled") or "", sweep.settings.get("samples"))
        lines.append(text)
    for name in names:
        if name not in NOT_CROSSED and _has(sweep, name):
            lines += [f"{heading(name)}: {one}" for one in sweep.crossed(name)]
    lines += _policies(sweep)
    statuses = {point.status for point in sweep.curve(JCT)}
    lines += [text for name, text in MEANING.items() if name in statuses]
    lost: dict[str, int] = {}
    for row in sweep.rows:
        lost[row.label] = lost.get(row.label, 0) + int(row.numbers.get("truncated") or 0)
    cut = [f"{label} {count:,}" for label, count in lost.items() if count]
    if cut:
        lines.append(f"truncated jobs ({', '.join(cut)}) outgrew the KV pool and have no times: no crossings there")
    return [*lines, *_failures(sweep)]


def _policies(sweep: Found) -> list[str]:
    """Each label's own settings, without those that vary."""
    first = {row.label: row for row in reversed(sweep.rows)}
    lines = []
    for label in sweep.labels:
        if label not in first:
            continue
        apart = ("router", "derived", *first[label].at)
        text = policy_in_words({name: value for name, value in first[label].told.items() if name not in apart})
        lines += [f"{label}: {text}"] if text else []
    return lines


def _failures(sweep: Found) -> list[str]:
    lines = [f"failed: {one}" for one in sweep.failed[:MOST_NAMED]]
    more = len(sweep.failed) - MOST_NAMED
    return [*lines, *([f"and {more:,} more runs that failed"] if more > 0 else [])]
