"""Results as a text table: one row a label, averaged over its seeds. The usual columns stay within layout.WIDTH."""

from collections.abc import Mapping, Sequence
from typing import Any

from sim.report.columns import GROUPS, RATIO, Show, columns, shown, with_room
from sim.report.header import header
from sim.report.layout import aligned, average, figure, first_or_row, left_out, ratio_text, too_wide
from sim.report.notes import notes, resampled_lines
from sim.report.pairs import jct_ratio, mark
from sim.report.programs import programs_lines
from sim.report.replicas import replicas_lines
from sim.report.run import Run

Groups = Mapping[str, Sequence[Run]]
"""Label -> its runs, in order of appearance."""


def table(runs: Sequence[Run], settings: Mapping[str, Any], show: Show = None) -> str:
    """Settings, one row per label in order of appearance, then each label's own settings and what the marks mean.

    Figures are means over seeds. The last column is the mean JCT of the first label over that of the row, paired by
    seed, with a 95 % interval where there are seeds enough; the line under the table says what was resampled.

    show: names of columns and groups of them (columns.shown() reads them), as "default,p99_ttft_s" or "wide". Raises
    ValueError for one that is none.
    """
    chosen = shown(show, has_slo(runs))
    if not runs:
        return "No run was finished."
    groups = by_label(runs)
    spared: list[str] = []
    if chosen.every:
        keys = [key for group in GROUPS.values() for key in _valued(groups, settings, group)]
        body = _every(groups, settings)
    else:
        keys, spared = (list(chosen.requests), []) if chosen.asked else _roomy(groups, settings, chosen.requests)
        body = aligned(request_rows(groups, settings, keys))
    if chosen.every or RATIO in keys:
        body += resampled_lines(groups, settings)
    body += left_out(spared)
    programs = programs_lines(groups, settings, chosen)
    if programs:
        body = [*programs, "", "requests:", *body]
    replicas = replicas_lines(groups, settings)
    if replicas:
        body += ["", *replicas]
    return "\n".join([*header(runs, settings), "", *body, *notes(groups, settings, keys)]) + "\n"


def rows(runs: Sequence[Run], settings: Mapping[str, Any], show: Show = None) -> list[list[str]]:
    """The cells of the table of requests: two rows of heading, then one a label, equally long; for a page, say.

    All columns of show, however wide; those without a value for any label are left out of "all".
    """
    chosen = shown(show, has_slo(runs))
    groups = by_label(runs)
    if not groups:
        return [["policy"], [""]]
    if chosen.every:
        keys = dict.fromkeys(key for group in GROUPS.values() for key in _valued(groups, settings, group))
        return request_rows(groups, settings, [*keys, RATIO])
    return request_rows(groups, settings, chosen.requests)


def by_label(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups


def has_slo(runs: Sequence[Run]) -> bool:
    """Whether any job has an objective."""
    return any(run.summary.get("slo_attainment") is not None for run in runs)


def request_rows(groups: Groups, settings: Mapping[str, Any], keys: Sequence[str]) -> list[list[str]]:
    """Two rows of heading, then one a label, with a mark behind those that notes() explains."""
    first = next(iter(groups.values()))
    found = columns(keys)
    heading = [["", *(one.top for one in found)], ["policy", *(one.bottom for one in found)]]
    if RATIO in keys:
        heading[1][1 + list(keys).index(RATIO)] = first_or_row(first[0].label)
    return [*heading, *(_row(label, group, first, settings, keys) for label, group in groups.items())]


def _row(
    label: str, group: Sequence[Run], first: Sequence[Run], settings: Mapping[str, Any], keys: Sequence[str]
) -> list[str]:
    marked = mark(group)
    cells = [f"{label} {'*' if marked else ''}".rstrip()]
    for key in keys:
        if key != RATIO:
            cells.append(figure(group, key, settings))
        elif group is first:
            cells.append("1")
        else:
            cells.append(ratio_text(jct_ratio(first, group, settings), bool(marked or mark(first))))
    return cells


def _roomy(groups: Groups, settings: Mapping[str, Any], usual: Sequence[str]) -> tuple[list[str], list[str]]:
    return with_room(usual, lambda keys: not too_wide(aligned(request_rows(groups, settings, keys))))


def _every(groups: Groups, settings: Mapping[str, Any]) -> list[str]:
    """A table a group of columns, of those that have a value."""
    lines: list[str] = []
    for name, group in GROUPS.items():
        keys = _valued(groups, settings, group)
        if keys:
            keys += [RATIO] if name == "jct" else []
            lines += ([""] if lines else []) + [f"{name}:", *aligned(request_rows(groups, settings, keys))]
    return lines


def _valued(groups: Groups, settings: Mapping[str, Any], keys: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return [key for key in keys if any(average(group, key, settings) is not None for group in groups.values())]
