"""Which jobs of a result are worth a closer look: of its first seed, measured jobs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastserve.metrics.columns import Columns
from sim.report.run import Run


def first_seed(runs: Sequence[Run], settings: Mapping[str, Any]) -> dict[str, Columns]:
    """Label -> records, of the seed whose jobs --explain tells of; without those that came in the warmup."""
    seed = runs[0].seed if runs else 0
    warmup = float(settings.get("warmup") or 0.0)
    return {run.label: _measured(dict(run.records), warmup) for run in runs if run.seed == seed}


def _measured(records: Columns, warmup: float) -> Columns:
    arrival = records["arrival"]
    if not warmup or not len(arrival):
        return records
    kept = arrival >= arrival.min() + warmup
    return {name: column[kept] for name, column in records.items()}
