"""The table of a Capacity, within 100 columns."""

from __future__ import annotations

import textwrap

from fastserve.metrics.intervals import resampled
from fastserve.metrics.slo import Slo
from sim.capacity.found import Estimate, Findings
from sim.report.html import html_table
from sim.report.layout import aligned, number

WIDTH = 100
FEW = 10
"""Requests that may miss their objectives, below which the answer hangs on single ones."""

HEADING = (
    ["", "largest", "", "requests", "ratio to", "", "met", ""],
    ["policy", "load", "95 %", "per s", "FIRST", "95 %", "there", "runs"],
)


def in_words(capacity: Findings) -> str:
    """The objective: "95 % of the requests have their first token within 1 s, ..."."""
    slo = Slo.parse(capacity.slo)
    parts = [
        f"{what} {value:g} s{unit}"
        for what, value, unit in (
            ("first token within", slo.ttft_s, ""),
            ("then at most", slo.tpot_s, " per token"),
            ("all within", slo.e2e_s, ""),
        )
        if value is not None
    ]
    what = ", ".join(parts) if parts else "the objectives that they bring"
    return f"{100 * capacity.attain:g} % of the requests meet: {what}"


def table(capacity: Findings) -> str:
    """What is looked for, a row for each policy, and what its marks mean. Figures are means over seeds."""
    cells = _table(capacity)
    if not cells:
        return "No search was finished.\n"
    lines = [*_wrapped(_header(capacity)), "", *aligned(cells)]
    for note in _notes(capacity):
        lines += _wrapped(note)
    return "\n".join(lines) + "\n"


def html(capacity: Findings) -> str:
    """The same for a notebook."""
    cells = _table(capacity)
    below = _notes(capacity) if cells else ["No search was finished."]
    return html_table(cells, above=[*capacity.reading, _header(capacity)] if cells else [], below=below)


def _table(capacity: Findings) -> list[list[str]]:
    """Two lines of heading, and the rows; nothing without rows."""
    rows = capacity.rows()
    if not rows:
        return []
    first = str(rows[0]["label"])
    cells = [list(line) for line in HEADING]
    cells[1][4] = first if len(first) <= 12 else "the first"
    for row in rows:
        label = str(row["label"])
        load, rate = _cells(capacity.load(label)), _cells(capacity.rate(label))[0]
        ratio = ("1", "") if label == first else _cells(capacity.ratio(label))
        met = row["slo_attainment"]
        name = f"{label} *" if row["saturated"] else label
        cells.append([name, *load, rate, *ratio, "-" if met is None else f"{met:.1%}", str(row["runs"])])
    return cells


def _cells(of: Estimate) -> tuple[str, str]:
    """A mean and its interval."""
    if of.mean is None:
        return "-", ""
    sign = {"": "", "at least": ">= ", "at most": "<= "}[of.side]
    return f"{sign}{number(of.mean)}", "" if of.low is None else f"[{number(of.low)}, {number(of.high)}]"


def _header(capacity: Findings) -> str:
    about = capacity.found[0].about
    names = ("trace", "latency", "max_batch", "batching", "residency", "replicas")
    given = [f"{name.replace('_', ' ')} {about[name]}" for name in names if name in about]
    return (
        f"{in_words(capacity)}. {', '.join(given)}; n {capacity.requests:,}; load 1 is "
        f"{number(capacity.sustained_rps)} requests/s, what fcfs sustains"
    )


def _notes(capacity: Findings) -> list[str]:
    rows = capacity.rows()
    seeds = min(int(row["seeds"]) for row in rows)
    notes = [resampled(seeds, capacity.resampled, capacity.samples)]
    runs, cut = sum(row["runs"] for row in rows), sum(row["cut_short"] for row in rows)
    notes.append(
        f"found to {100 * capacity.tolerance:g} % between loads of {capacity.lowest:g} and {capacity.highest:g}, on "
        f"each seed up to the first load that fails; {cut} of {runs} runs were ended once they were certain to fail"
    )
    for bound, told, end in (
        ("at least", "meet it at the highest load that was tried", capacity.highest),
        ("below", "fail at the lowest load that was tried", capacity.lowest),
    ):
        there = {label: sum(one.bound == bound for one in capacity.of(label)) for label in capacity.labels}
        parts = [f"{label} {count} of {len(capacity.of(label))}" for label, count in there.items() if count]
        if parts:
            flag = "--highest" if bound == "at least" else "--lowest"
            notes.append(
                f"seeds that {told}, {end:g} ({flag}): {', '.join(parts)}; their mean is a bound, without interval"
            )
    alone = capacity.met_alone
    if alone is not None and alone < capacity.attain:
        notes.append(f"on an empty machine, one at a time, {alone:.1%} of the requests meet it: no load can")
    marked = [str(row["label"]) for row in rows if row["saturated"]]
    if marked:
        notes.append(
            f"* {', '.join(marked)}: the queue grew to the end of a run at this load, so that a longer trace has a "
            "smaller one"
        )
    missing = capacity.requests * (1 - capacity.attain)
    if missing < FEW:
        share = f"{100 * (1 - capacity.attain):.3g} % of {capacity.requests:,} requests are {missing:.3g}: single ones"
        notes.append(
            f"{share} decide; take a longer trace" if missing else "every request must meet it: the worst one decides"
        )
    again = capacity.rises_again()
    if again:
        parts = [f"{label} at {number(load)} (seed {seed})" for label, (load, seed) in again.items()]
        notes.append(f"it is met again above a load that fails: {', '.join(parts)}; such a load is not counted")
    return notes


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
