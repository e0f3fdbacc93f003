"""Writes result files atomically: the JSON document and the records."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve.atomic_files import atomically
from fastserve.formats import metadata
from fastserve.metrics.records import Columns


def save_document(path: Path, document: Mapping[str, Any]) -> Path:
    """Raises OutputError."""
    with atomically(path) as draft:
        draft.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def save_csv(path: Path, columns: Columns, names: Mapping[str, Any]) -> Path:
    """One row per row of the columns, `names` in front of each; NaN as empty. Raises OutputError."""
    with atomically(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *columns])
        lists = [column.tolist() for column in columns.values()]
        for row in zip(*lists, strict=True):
            cells = ["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row]
            writer.writerow([*names.values(), *cells])
    return path


def save_records(stem: Path, columns: Columns, *, policy: str, label: str, seed: int) -> Path:
    """One row per request, with policy, label and seed in front, as in the simulator's records.

    Writes stem.records.parquet where pyarrow is installed, else stem.records.csv, NaN as empty. Raises OutputError.
    """
    names: dict[str, Any] = {"policy": policy, "label": label, "seed": seed}
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        return save_csv(stem.with_name(f"{stem.name}.records.csv"), columns, names)
    path = stem.with_name(f"{stem.name}.records.parquet")
    n = len(columns["id"])
    table: dict[str, Any] = {name: pa.array([value] * n) for name, value in names.items()}
    for name, column in columns.items():
        table[name] = pa.array(column, pa.string() if column.dtype == object else None, from_pandas=True)
    with atomically(path) as draft:
        pq.write_table(pa.table(table).replace_schema_metadata(metadata("records")), draft)
    return path
