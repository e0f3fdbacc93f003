"""The page of a replay: its table, the CDFs of completion and first-token times, and the schedules that were kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.finish import is_outcome
from fastserve.metrics.notable import Notable, notable
from fastserve.observers.schedule import Schedule
from fastserve.package_version import package_version
from sim.notable import first_seed
from sim.report.columns import Show
from sim.report.html import html_table
from sim.report.page.schedules import Schedules
from sim.report.page.shell import Markup, packed, write_page
from sim.report.run import Run
from sim.report.style import BLACK, Look, looks_of
from sim.report.table import by_label, rows, table

POINTS = 240  # of a curve
CLIPPED = 120  # characters of a label
STYLE = re.compile(r""" style=(?:"[^"]*"|'[^']*')""")  # of markup: in texts quotes are escaped


def write_report(
    path: Path,
    runs: Sequence[Run],
    settings: Mapping[str, Any],
    schedules: Schedules,
    *,
    show: Show = None,
) -> Path:
    """Writes the page of these runs.

    settings: as replay() shows them. schedules: of the labels that have one; the others have none on the page.
    show: columns of the table.

    Raises ValueError without runs, OutputError where the file cannot be written.
    """
    if not runs:
        raise ValueError(f"{path}: there is nothing to report: no run was finished")
    groups = by_label(runs)
    looks = looks_of({label: group[0].policy for label, group in groups.items()})
    drawn = {label: {"label": label, "colour": colour_of(style), "dash": style.dash} for label, style in looks.items()}
    trace = str(settings.get("trace", ""))
    data = {
        "seed": schedules.seed,
        "charts": [
            _cdf("JCT", "job completion time (s)", "jct_from_arrival", groups, drawn),
            _cdf("TTFT", "time to first token (s)", "ttft", groups, drawn),
        ],
        "notable": [_worth(job) for job in notable(first_seed(runs, settings))],
        "schedules": _kept(schedules, drawn),
    }
    names = ", ".join([clipped(label) for label in groups])
    seeds = sorted({run.seed for run in runs})
    parts = {
        "heading": f"{names} on {clipped(trace)}",
        "facts": facts(settings, runs),
        "seed": f"of seed {schedules.seed}" if len(seeds) > 1 else "",
        "result": _result(rows(runs, settings, show), table(runs, settings, show)),
        "below": "",
        "made": made(),
    }
    return write_page(path, f"{names}: {clipped(trace)}", parts, data)


def write_schedules(path: Path, schedules: Mapping[str, Schedule], title: str) -> Path:
    """Writes a page of schedules alone, by label: of runs on an engine, say, that one has attached to.

    Raises ValueError without any, OutputError where the file cannot be written.
    """
    if not schedules:
        raise ValueError(f"{path}: there is no schedule to show")
    looks = looks_of({label: label for label in schedules})
    kept = Schedules()
    kept.of.update(schedules)
    drawn = {label: {"label": label, "colour": colour_of(style), "dash": style.dash} for label, style in looks.items()}
    data = {"seed": None, "charts": [], "notable": [], "schedules": _kept(kept, drawn)}
    parts = {"heading": title, "facts": "", "seed": "", "result": "", "below": "", "made": made()}
    return write_page(path, title, parts, data)


def _kept(schedules: Schedules, drawn: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """Those of the labels that are drawn, in their order."""
    return [
        dict(look) | {"note": schedules.notes.get(label, ""), "packed": packed(schedules.of[label].document())}
        for label, look in drawn.items()
        if label in schedules.of
    ]


def made() -> str:
    """The line at a page's foot."""
    return f"FastServe testbed {package_version()}"


def clipped(text: str, most: int = CLIPPED) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def facts(settings: Mapping[str, Any], runs: Sequence[Run]) -> Markup:
    """What the runs have in common, in a few words each."""
    jobs = max([int(run.summary["n"] or 0) for run in runs])
    seeds = len({run.seed for run in runs})
    words = [f"{jobs:,} jobs", f"{seeds} seeds" if seeds > 1 else f"seed {runs[0].seed}"]
    for name in ("latency", "max_batch", "load"):
        value = settings.get(name)
        if value is not None:
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            words.append(f"{name.replace('_', ' ')} {clipped(text)}")
    return Markup("".join([f"<span>{escape(word)}</span>" for word in words]))


def _result(cells: Sequence[Sequence[str]], text: str) -> Markup:
    """The table, and all that the text table says beside it."""
    table = plain_markup(html_table([[clipped(cell) for cell in row] for row in cells]))
    return Markup(
        f'<div class="scroll" tabindex="0" role="group" aria-label="Results">{table}</div>'
        "<details><summary>All settings, and what the marks mean</summary>"
        f'<pre class="scroll" tabindex="0">{escape(text)}</pre></details>'
    )


def _worth(job: Notable) -> dict[str, Any]:
    """labels: of the two policies under which it is seen, as far as they matter, the slower one last."""
    reason = job.why[-1]
    return {
        "job": job.id,
        "why": f"{', '.join([why.word.replace('-', ' ') for why in job.why])}: {job.words()}",
        "labels": [label for label in (reason.other, reason.label) if label],
    }


def plain_markup(markup: str) -> Markup:
    """What sim.report.html makes, without styles at its elements: the page has its own, and allows no others."""
    return Markup(STYLE.sub("", markup))


def colour_of(style: Look) -> str:
    """Black is the page's ink, which is light on dark."""
    return "var(--ink)" if style.colour == BLACK else style.colour


def _cdf(
    title: str, name: str, column: str, groups: Mapping[str, Sequence[Run]], drawn: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """The share of all jobs within a time, all seeds together; unfinished ones belong to the whole, as in plot."""
    series = []
    for label, group in groups.items():
        times, total = _pooled(group, column)
        shares = np.linspace(0.0, 1.0, min(POINTS, max(2, len(times))))
        at = np.quantile(times, shares) if len(times) else np.zeros(0)
        y = (shares * len(times) / max(1, total)) if len(times) else np.zeros(0)
        series.append(dict(drawn[label]) | {"x": _short(at), "y": _short(y)})
    seeds = len({run.seed for group in groups.values() for run in group})
    about = f"{title}, {seeds} seeds together" if seeds > 1 else title
    return {"title": about, "x": name, "y": "share of jobs", "log": True, "top": 1, "share": True, "unit": " s",
            "series": series}  # fmt: skip


def _pooled(group: Sequence[Run], column: str) -> tuple[NDArray[np.float64], int]:
    """Sorted times of the completed jobs of all seeds, and how many jobs there are."""
    times, total = [], 0
    for run in group:
        finish = run.records["finish"]
        done = is_outcome(finish, "completed")
        values = run.records[column][done]
        times.append(values[np.isfinite(values)])
        total += int(np.count_nonzero(done | (finish == "unfinished")))
    return np.sort(np.concatenate(times)), total


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
