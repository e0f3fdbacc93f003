"""The part of a table that is about replicas, of runs of a cluster: one row a label."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from fastserve.policies.in_words import value_in_words
from sim.report.layout import WIDTH, aligned, average, number
from sim.report.run import Run

Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]

HEADINGS = (
    ["", "jobs, %", "", "", "busy, %", "", "", "busiest", "resent", "error", "lost"],
    ["replicas", "least", "mean", "most", "least", "mean", "most", "/ mean", "jobs", "jobs", "tokens"],
)
EACH = 8
"""Replicas up to which each is told."""


def replicas_lines(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> list[str]:
    """Nothing where no run has replicas. Means over seeds."""
    if not has_replicas(groups):
        return []
    notes = [
        textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for note in replica_notes(groups)
    ]
    return aligned(replica_rows(groups, settings)) + [line for note in notes for line in note]


def has_replicas(groups: Mapping[str, Sequence[Run]]) -> bool:
    return any(run.replicas is not None for group in groups.values() for run in group)


def replica_rows(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> list[list[str]]:
    """The cells: two rows of heading, then one a label."""
    rows = [list(row) for row in HEADINGS]
    for label, group in groups.items():
        tables = [run.replicas for run in group if run.replicas is not None]
        share, busy = (100 * _mean(tables, name) for name in ("share", "utilisation"))
        errors = sum(int((run.records["finish"] == "error").sum()) for run in group) / len(group)
        figures = [*_spread(share), *_spread(busy)]
        counts = [average(group, key, settings) for key in ("imbalance", "resent")]
        rows.append([label, *map(number, [*figures, *counts, errors, average(group, "lost_tokens", settings)])])
    return rows


def replica_notes(groups: Mapping[str, Sequence[Run]]) -> list[str]:
    """Each replica, where they are few."""
    first = next(iter(groups.values()))[0].replicas
    few = first is not None and len(first["name"]) <= EACH
    return [f"{label}: {_each(group)}" for label, group in groups.items()] if few else []


def router_notes(groups: Mapping[str, Sequence[Run]]) -> list[str]:
    """What each router goes by: its settings."""
    found: dict[str, str] = {}
    for group in groups.values():
        router = group[0].settings.get("router")
        if isinstance(router, Mapping) and router["settings"]:
            words = [f"{name}={value_in_words(value)}" for name, value in router["settings"].items()]
            found[str(router["name"])] = ", ".join(words)
    return [f"{name}: {words}" for name, words in found.items()]


def _each(group: Sequence[Run]) -> str:
    tables = [run.replicas for run in group if run.replicas is not None]
    share, busy, jct = (_mean(tables, name) for name in ("share", "utilisation", "mean_jct_s"))
    return ", ".join(
        f"{name} {part:.0%} of the requests (busy {used:.0%}, mean JCT {number(time if time == time else None)} s)"
        for name, part, used, time in zip(tables[0]["name"], share, busy, jct.tolist(), strict=True)
    )


def _mean(tables: Sequence[Mapping[str, Values]], name: str) -> Values:
    found: Values = np.mean([table[name] for table in tables], axis=0)
    return found


def _spread(values: Values) -> list[float]:
    return [float(values.min()), float(values.mean()), float(values.max())]
