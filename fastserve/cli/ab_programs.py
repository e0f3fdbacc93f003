"""What `fastserve ab` tells of programs, where the trace has sessions: the table, and the rows of a file."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve.compare.compare import Comparison

COLUMNS = (
    ("time s", "program_time_mean_s"),
    ("p95", "program_time_p95_s"),
    ("an hour", "programs_per_hour"),
    ("hit rate", "hit_rate"),
    ("TTFT s max", "max_ttft_s"),
    ("1st turn p99", "ttft_first_turn_p99_s"),
    ("held s", "held_mean_s"),
)
"""Heading, and the measure below it: means over rounds."""


def program_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """The table, a list of cells a line, from a comparison's document; empty without sessions."""
    ratios = document.get("program_ratios")
    if ratios is None:
        return []
    rows = [["programs", *(title for title, _ in COLUMNS), "gain: time"]]
    for label, means in document["means"].items():
        ratio = ratios.get(label, {"mean": 1.0, "low": None})
        cells = ["-" if means[key] is None else f"{means[key]:.4g}" for _, key in COLUMNS]
        gain = "-" if ratio is None else f"{ratio['mean']:.2f}"
        if ratio is not None and ratio["low"] is not None:
            gain += f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        rows.append([label, *cells, gain])
    return rows


def program_notes(found: Comparison) -> list[str]:
    """What the table is of, and what became of programs that were not completed."""
    told = "time: from a program's first arrival to its last end, think times included; its gain is paired by program"
    unlimited = found.values(found.labels[0], "hit_rate_unlimited")
    if unlimited[0] == unlimited[0]:
        told += f"; hit rate of a cache that forgets nothing, in the trace's own blocks: {unlimited[0]:.3f}"
    lines = [told]
    for label in found.labels:
        runs = [run.summary for run in found.rounds if run.label == label]
        total = {
            key: sum([int(run.get(key) or 0) for run in runs])
            for key in ("programs", "programs_abandoned", "abandoned_requests", "gave_up")
        }
        if total["programs_abandoned"]:
            gave_up = f" ({total['gave_up']} given up by their clients)" if total["gave_up"] else ""
            lines.append(
                f"{label}: {total['programs_abandoned']} of {total['programs']} programs abandoned, for a request of "
                f"theirs was not completed{gave_up}; {total['abandoned_requests']} requests that would have followed "
                "never came"
            )
    return [part for line in lines for part in textwrap.wrap(line, 100, subsequent_indent="  ")]


def save_programs(path: Path, found: Comparison) -> Path:
    """One row per program and run. Raises OutputError."""
    import numpy as np

    from fastserve.bench.save import save_csv

    tables = [(run, run.programs) for run in found.rounds if run.programs is not None]
    lengths = [len(table["program"]) for _, table in tables]
    columns: dict[str, Any] = {
        "policy": np.repeat([run.policy for run, _ in tables], lengths),
        "label": np.repeat([run.label for run, _ in tables], lengths),
        "round": np.repeat([run.number for run, _ in tables], lengths),
    }
    for name in tables[0][1]:
        columns[name] = np.concatenate([table[name] for _, table in tables])
    return save_csv(path, columns, {})
