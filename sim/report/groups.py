"""Results by group of jobs: a table of a label a row per group, what is to be said of it, and a row a run and group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from fastserve.json_values import plain
from fastserve.metrics.groups import LENGTHS, By, Grouping, group_summaries, grouping, horizon_of
from fastserve.metrics.programs import window_at_work
from fastserve.metrics.slo import Slo
from fastserve.metrics.summary import Summary
from fastserve.workload import Trace
from sim.report.columns import RATIO, Show, shown, with_room
from sim.report.layout import aligned, average, left_out, number, too_wide, wrapped
from sim.report.run import Run
from sim.report.table import by_label, has_slo, request_rows

Bys: TypeAlias = str | By | Sequence[str | By] | None
"""Kinds of groups, with commas between them or as a list, each as fastserve.metrics.groups.By.parse() reads it."""

USUAL = (
    "n", "mean_jct_s", "p99_jct_s", "mean_slowdown", "mean_ttft_s", "p99_ttft_s", "throughput_rps", RATIO,
)  # fmt: skip
WITH_SLO = (
    "n", "mean_jct_s", "p99_jct_s", "mean_ttft_s", "p99_ttft_s", "goodput_rps", "slo_attainment", RATIO,
)  # fmt: skip
LONGEST = 40
"""Characters of a group's name that are shown."""

FAIR = ("client", "program", "length", "prompt")
"""Kinds whose groups have equal claims, so that it can be said how unlike they fare."""


class Split(NamedTuple):
    """Runs by group. parts: of each group, each run with the group's summary and no more of its records than say
    whether two did the same work.
    """

    groups: Grouping
    parts: Sequence[Sequence[Run]]

    @property
    def names(self) -> list[str]:
        """As they are shown."""
        found = ["".join(letter if letter.isprintable() else "?" for letter in name) for name in self.groups.names]
        found = [f"{self.groups.by.kind} {name}" if name.lstrip("-").isdecimal() else name for name in found]
        return [name if len(name) <= LONGEST else f"{name[: LONGEST - 12]}...{name[-9:]}" for name in found]

    @property
    def own(self) -> list[int]:
        """Numbers of the groups that are one of a kind: not the rest, nor those without a name."""
        last = len(self.parts) - self.groups.rest
        return [i for i in range(last) if self.groups.names[i] != f"no {self.groups.by.kind}"]


def kinds(by: Bys) -> list[By]:
    """Raises ValueError that lists the kinds."""
    if by is None:
        return []
    given = by.split(",") if isinstance(by, str) else [by] if isinstance(by, By) else list(by)
    return list(dict.fromkeys(By.parse(one) for one in given))


def check_told(by: Bys, trace: Trace) -> None:
    """Before a run. Raises ValueError where the trace does not tell what its requests would be grouped by."""
    told = {
        "client": trace.client, "program": trace.program, "priority": trace.priority,
        "class": getattr(trace, "slo_class", None),
    }  # fmt: skip
    for one in kinds(by):
        if one.kind in told and told[one.kind] is None:
            rest = [kind for kind, column in told.items() if column is not None]
            raise ValueError(
                f"by: this trace does not tell the {one.kind} of its requests; there is {', '.join([*rest, *LENGTHS])}"
            )


def split(runs: Sequence[Run], settings: Mapping[str, Any], by: str | By) -> Split:
    """Raises ValueError where no job tells what it would be grouped by."""
    groups = grouping(by, [run.records for run in runs])
    parts: list[list[Run]] = [[] for _ in groups.names]
    for run in runs:
        kept = {name: run.records[name] for name in ("id", "finish")}
        rows = groups.rows(run.records)
        for part, mine, summary in zip(parts, rows, _summaries(run, settings, groups), strict=True):
            marks = {key: run.summary.get(key) for key in ("saturated", "collapsed")}  # of the run that it is part of
            records = {name: column[mine] for name, column in kept.items()}
            part.append(replace(run, records=records, summary=summary | marks, programs=None, replicas=None))
    return Split(groups, parts)


def _summaries(run: Run, settings: Mapping[str, Any], groups: Grouping) -> list[Summary]:
    horizon, warmup = horizon_of(run.records), float(settings.get("warmup") or 0.0)
    window = None
    if run.programs is not None and settings.get("sessions") is not None:
        window = window_at_work(run.programs, int(settings["sessions"]), horizon, warmup)
    slo = Slo.parse(settings["slo"]) if settings.get("slo") else None
    return group_summaries(run.records, groups, horizon_s=horizon, warmup_s=warmup, slo=slo, window=window)


def rows_by(runs: Sequence[Run], settings: Mapping[str, Any], by: str | By) -> Iterator[dict[str, Any]]:
    """A row per group and run: policy, label, seed, group, and the group's summary."""
    found = split(runs, settings, by)
    for name, part in zip(found.groups.names, found.parts, strict=True):
        for run in part:
            names = {"policy": run.policy, "label": run.label, "seed": run.seed, "group": name}
            yield names | {key: value for key, value in run.summary.items() if key not in ("saturated", "collapsed")}


def document_by(runs: Sequence[Run], settings: Mapping[str, Any], by: Bys) -> dict[str, Any]:
    """Kind -> {"about", "groups": rows_by()}, as plain JSON values."""
    return {
        one.kind: {
            "about": grouping(one, [run.records for run in runs]).about,
            "groups": plain(list(rows_by(runs, settings, one))),
        }
        for one in kinds(by)
    }


def cells_by(runs: Sequence[Run], settings: Mapping[str, Any], by: str | By, show: Show = None) -> list[list[str]]:
    """The cells, the group in the first column and the label in the second: two rows of heading, then the others."""
    found, keys = split(runs, settings, by), _keys(runs, show)
    rows: list[list[str]] = []
    for name, part in zip(found.names, found.parts, strict=True):
        top, bottom, *mine = request_rows(by_label(part), settings, keys)
        rows = rows or [["", *top], ["group", *bottom]]
        rows += [[name, *row] for row in mine]
    return rows


def lines_by(runs: Sequence[Run], settings: Mapping[str, Any], by: Bys, show: Show = None) -> list[str]:
    """A table for each kind of groups."""
    lines: list[str] = []
    for one in kinds(by):
        lines += ["", *_table(split(runs, settings, one), runs, settings, show)]
    return lines


def _keys(runs: Sequence[Run], show: Show) -> list[str]:
    slo = has_slo(runs)
    chosen = shown(show, slo)
    if chosen.every:
        return ["n", *(key for key in shown("wide", slo).requests if key != "load")]
    if chosen.asked:
        return list(dict.fromkeys(["n", *(key for key in chosen.requests if key != "load")]))
    return list(WITH_SLO if slo else USUAL)


def _table(found: Split, runs: Sequence[Run], settings: Mapping[str, Any], show: Show) -> list[str]:
    def cells(keys: Sequence[str]) -> list[list[str]]:
        rows: list[list[str]] = []
        for name, part in zip(found.names, found.parts, strict=True):
            top, bottom, *mine = request_rows(by_label(part), settings, keys)
            rows = rows or [top, bottom]
            rows += [[name, *[""] * len(keys)], *[[f"  {row[0]}", *row[1:]] for row in mine]]
        return rows

    keys, spared = _keys(runs, show), list[str]()
    if show is None:
        keys, spared = with_room(keys, lambda keys: not too_wide(aligned(cells(keys))))
    lines = [*wrapped(f"{found.groups.about}"), "", *aligned(cells(keys)), *left_out(spared)]
    for note in _fairness(found, runs, settings):
        lines += wrapped(note)
    return lines


def _fairness(found: Split, runs: Sequence[Run], settings: Mapping[str, Any]) -> Iterator[str]:
    """How unlike the groups fare, where they have equal claims; who met the fewest objectives."""
    kind, labels = found.groups.by.kind, by_label(runs)
    own = [by_label(found.parts[i]) for i in found.own]
    if kind in FAIR and len(own) > 1:
        spreads = []
        for label in labels:
            means = [average(part[label], "mean_slowdown", settings) for part in own if label in part]
            known = [mean for mean in means if mean]
            if len(known) > 1:
                spreads.append(f"{label} {number(max(known) / min(known))}")
        if spreads:
            yield f"mean slowdown of the worst-off of these groups over that of the best-off: {', '.join(spreads)}"
    if kind == "client":
        shares = {label: average(group, "jain_index", settings) for label, group in labels.items()}
        told = [f"{label} {number(share)}" for label, share in shares.items() if share is not None]
        if told:
            yield f"Jain's index over all clients, tokens served a second of having work: {', '.join(told)} (1: alike)"
    worst = []
    for label in labels:
        shares_of = {
            found.names[i]: share
            for i in found.own
            if (share := average(by_label(found.parts[i]).get(label, []), "slo_attainment", settings)) is not None
        }
        if len(shares_of) > 1:
            least = min(shares_of, key=lambda name: shares_of[name])
            worst.append(f"{label} {number(shares_of[least])} ({least})")
    if worst:
        yield f"fewest SLOs met in one of these groups: {', '.join(worst)}"
