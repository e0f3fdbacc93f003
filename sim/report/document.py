"""Output of runs: the JSON document and the files of a result folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastserve.atomic_files import atomically
from fastserve.formats import metadata, stamp
from fastserve.json_values import plain
from sim.report.provenance import provenance
from sim.report.run import Run
from sim.report.table import table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["document", "table", "write_out"]

TEXT = ("finish", "client", "program")  # the record columns that are text; all others are numbers


def document(settings: Mapping[str, object], runs: Sequence[Run]) -> dict[str, Any]:
    """All runs as plain JSON values: {"settings", "runs": [{policy, label, seed, settings, summary}]}, null for NaN."""
    return {
        **stamp("run"),
        "settings": plain(settings),
        "runs": [
            {
                "policy": run.policy,
                "label": run.label,
                "seed": run.seed,
                "settings": plain(run.settings),
                "summary": plain(run.summary),
            }
            for run in runs
        ],
    }


def write_out(folder: Path, settings: Mapping[str, object], runs: Sequence[Run], csv: bool = False) -> list[Path]:
    """Writes run.json (settings, those of each label's policy, provenance), summary.json (`document`) and
    records.parquet, on request records.csv.

    The records of all runs are one table with the columns policy, label and seed in front. Each file appears whole or
    not at all; summary.json comes last, so a folder that has one is complete. Returns the paths.

    Raises OutputError, whose text is one line, when the folder cannot be written or the disk is full.
    """
    policies = {run.label: run.settings for run in reversed(runs)}
    about = {"settings": settings, "policies": dict(reversed(policies.items())), "provenance": provenance()}
    written = [_write_json(folder / "run.json", stamp("run") | plain(about))]
    if runs:
        written.append(_write_parquet(folder / "records.parquet", runs))
        if csv:
            written.append(_write_csv(folder / "records.csv", runs))
    return [*written, _write_json(folder / "summary.json", document(settings, runs))]


def _write_json(path: Path, value: object) -> Path:
    with atomically(path) as draft:
        draft.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _write_parquet(path: Path, runs: Sequence[Run]) -> Path:
    import pyarrow.parquet as pq

    # Run by run: one copy of one run's records at a time, however many runs there are.
    with atomically(path) as draft, pq.ParquetWriter(draft, _rows(runs[0]).schema) as writer:
        for run in runs:
            writer.write_table(_rows(run))
    return path


def _write_csv(path: Path, runs: Sequence[Run]) -> Path:
    import pyarrow.csv as pc

    with atomically(path) as draft, pc.CSVWriter(draft, _rows(runs[0]).schema) as writer:
        for run in runs:
            writer.write_table(_rows(run))
    return path


def _rows(run: Run) -> "pa.Table":
    """The records of `run`, with policy, label and seed in front; NaN becomes null."""
    import pyarrow as pa

    n = len(run.records["id"])
    columns = {
        "policy": pa.array([run.policy] * n, pa.string()),
        "label": pa.array([run.label] * n, pa.string()),
        "seed": pa.array(np.full(n, run.seed), pa.int64()),
    }
    for name, column in run.records.items():
        columns[name] = pa.array(column, pa.string() if name in TEXT else None, from_pandas=True)
    return pa.table(columns).replace_schema_metadata(metadata("records"))
