"""Run: records and summary of one policy under one seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastserve.metrics.summary import Columns, Summary


@dataclass(frozen=True, slots=True)
class Run:
    """One policy under one seed."""

    policy: str  # name or module:Class
    label: str  # names the row; several runs of one label differ in their seed
    seed: int
    settings: Mapping[str, Any]  # of this run alone: all those of the policy, see PolicySpec.told()
    records: Columns  # one row per job, seconds
    summary: Summary
    programs: Columns | None = None  # one row per program of a run of sessions, see metrics.programs.PROGRAM_COLUMNS
    replicas: Columns | None = None  # one row per replica of a cluster, see sim.cluster.records.replica_table()
