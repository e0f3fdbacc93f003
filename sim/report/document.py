"""Output of runs: the JSON document and the files of a result folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastserve.atomic_files import atomically
from fastserve.formats import FORMAT, metadata, stamp
from fastserve.json_values import plain
from fastserve.metrics.summary import Columns
from sim.report.provenance import provenance
from sim.report.run import Run
from sim.report.table import table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["document", "table", "write_out"]

TEXT = ("finish", "client", "program", "slo_class", "name")  # the record columns that are text; all others are numbers


def document(settings: Mapping[str, object], runs: Sequence[Run]) -> dict[str, Any]:
    """All runs as plain JSON values: {"settings", "runs": [{policy, label, seed, settings, summary}]} and, of a
    cluster, "replicas", null for NaN."""
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
                **({} if run.replicas is None else {"replicas": _listed(run.replicas)}),
            }
            for run in runs
        ],
    }


def _listed(columns: Columns) -> Any:
    """A table as a list of rows."""
    rows = zip(*[column.tolist() for column in columns.values()], strict=True)
    return plain([dict(zip(columns, row, strict=True)) for row in rows])


def check_out(folder: Path) -> None:
    """Raises ValueError where the folder is that of a sweep, say, which the files of a run would spoil."""
    path = folder / "run.json"
    try:
        with path.open("rb") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return
    kind = str(found.get(FORMAT, "run")) if isinstance(found, dict) else "run"
    if kind.partition("/")[0] != "run":
        raise ValueError(f"{folder} holds the files of something else ({path} is {kind!r}): name another folder")


def write_out(folder: Path, settings: Mapping[str, object], runs: Sequence[Run], csv: bool = False) -> list[Path]:
    """Writes run.json (settings, those of each label's policy, provenance), summary.json (`document`) and
    records.parquet, of runs of sessions programs.csv, of a cluster replicas.csv, on request
    records.csv.

    The records of all runs are one table with the columns policy, label and seed in front. Each file appears whole or
    not at all; summary.json comes last, so a folder that has one is complete. Returns the paths.

    Raises OutputError, whose text is one line, when the folder cannot be written or the disk is full, and ValueError
    where it holds a sweep or the like.
    """
    check_out(folder)
    policies = {run.label: run.settings for run in reversed(runs)}
    about = {"settings": settings, "policies": dict(reversed(policies.items())), "provenance": provenance()}
    written = [_write_json(folder / "run.json", stamp("run") | plain(about))]
    if runs:
        written.append(_write_parquet(folder / "records.parquet", runs))
        if csv:
            written.append(_write_csv(folder / "records.csv", [_rows(run, run.records) for run in runs]))
        replicas = [_rows(run, run.replicas) for run in runs if run.replicas is not None]
        if replicas:
            written.append(_write_csv(folder / "replicas.csv", replicas))
        programs = [_rows(run, run.programs) for run in runs if run.programs is not None]
        if programs:
            written.append(_write_csv(folder / "programs.csv", programs))
    return [*written, _write_json(folder / "summary.json", document(settings, runs))]


def _write_json(path: Path, value: object) -> Path:
    with atomically(path) as draft:
        draft.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def write_programs(path: Path, runs: Sequence[Run]) -> Path:
    """One row per program and run, as CSV. Raises ValueError where no run had sessions, OutputError."""
    tables = [_rows(run, run.programs) for run in runs if run.programs is not None]
    if not tables:
        raise ValueError(f"{path}: no run had programs: the trace must say what waits for what, or give --sessions")
    return _write_csv(path, tables)


def _write_parquet(path: Path, runs: Sequence[Run]) -> Path:
    import pyarrow.parquet as pq

    # Run by run: one copy of one run's records at a time, however many runs there are.
    with atomically(path) as draft, pq.ParquetWriter(draft, _rows(runs[0], runs[0].records).schema) as writer:
        for run in runs:
            writer.write_table(_rows(run, run.records))
    return path


def _write_csv(path: Path, tables: "Sequence[pa.Table]") -> Path:
    import pyarrow.csv as pc

    with atomically(path) as draft, pc.CSVWriter(draft, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return path


def _rows(run: Run, columns: Columns) -> "pa.Table":
    """Records or programs of `run`, with policy, label and seed in front; NaN becomes null."""
    import pyarrow as pa

    n = len(next(iter(columns.values())))
    found = {
        "policy": pa.array([run.policy] * n, pa.string()),
        "label": pa.array([run.label] * n, pa.string()),
        "seed": pa.array(np.full(n, run.seed), pa.int64()),
    }
    for name, column in columns.items():
        found[name] = pa.array(column, pa.string() if name in TEXT else None, from_pandas=True)
    return pa.table(found).replace_schema_metadata(metadata("records"))
