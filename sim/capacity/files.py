"""The files of a Capacity."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve.atomic_files import atomically
from fastserve.formats import stamp
from sim.report.provenance import provenance

if TYPE_CHECKING:
    from sim.capacity.result import Capacity


def write(capacity: Capacity, folder: Path) -> list[Path]:
    """Each appears whole or not at all; summary.json comes last, so that a folder that has one is complete. Returns the
    paths.
    """
    document = capacity.document()
    about = {"settings": document["settings"], "policies": document["policy_settings"], "provenance": provenance()}
    return [
        _json(folder / "run.json", stamp("capacity") | about),
        _csv(folder / "searches.csv", document["searches"]),
        _csv(folder / "runs.csv", document["runs"]),
        _json(folder / "summary.json", document),
    ]


def _json(path: Path, value: object) -> Path:
    with atomically(path) as draft:
        draft.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with atomically(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    return path
