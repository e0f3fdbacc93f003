"""Records of a cluster: those of all replicas as one table, with where each job was, and a row per replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fastserve.metrics.columns import COLUMNS, Columns, empty
from fastserve.metrics.finish import is_outcome
from fastserve.metrics.records import Recorder
from fastserve.metrics.summary import Summary
from fastserve.workload.content import Content
from sim.evicted import with_evicted

NOWHERE = -1
"""Number of the replica of a job that none could be asked for."""


def merged(recorders: Sequence[tuple[int, Recorder]], resent: Mapping[int, int], content: Content | None) -> Columns:
    """By id. recorders: each with its replica's number. resent: by id of a job how often it was sent again.

    `replica`: by whom the job was ended. `evicted_tokens` are counted replica by replica: what another one has computed
    was never here.
    """
    parts: list[Columns] = []
    for number, recorder in recorders:
        part = recorder.columns()
        if len(part["id"]):
            parts.append(part | {"replica": np.full(len(part["id"]), number, np.int64)})
    if not parts:
        none = np.empty(0, np.int64)
        return empty() | {"replica": none, "resent": none}
    if content is not None:
        numbers = dict.fromkeys(number for number, _ in recorders)
        groups = [[part for part in parts if part["replica"][0] == number] for number in numbers]
        parts = [with_evicted(_joined(group), content) for group in groups if group]
    columns = _joined(parts)
    columns["resent"] = np.zeros(len(columns["id"]), np.int64)
    if resent:
        columns["resent"] += [resent.get(id, 0) for id in columns["id"].tolist()]
    return columns


def _joined(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return dict(parts[0])
    names = [*COLUMNS, "replica"]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    order = np.argsort(columns["id"], kind="stable")
    return {name: columns[name][order] for name in names}


def replica_table(
    columns: Columns, names: Sequence[str], weights: Sequence[float], busy: Sequence[int], horizon: int
) -> Columns:
    """A row per replica. busy: ns in which each ran; horizon: ns, the end of the run."""
    start = float(columns["arrival"].min()) if len(columns["id"]) else 0.0
    span = horizon / 1e9 - start
    rows = [columns["replica"] == number for number in range(len(names))]
    total = max(1, len(columns["id"]))
    begun = ~np.isnan(columns["first_token"])
    counts = np.array([np.count_nonzero(row) for row in rows], np.int64)

    def summed(
        name: str, also: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([int(columns[name][row & also].sum()) for row in rows], np.int64)

    prompts, cached = summed("prompt_tokens", begun), summed("cached_tokens", begun)
    jct = columns["jct_from_arrival"]
    completed = is_outcome(columns["finish"], "completed")
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "replica": np.arange(len(names), dtype=np.int64),
            "name": np.array(list(names), "O"),
            "weight": np.array(list(weights), float),
            "requests": counts,
            "share": counts / total,
            "utilisation": np.array(busy, float) / 1e9 / span if span > 0 else np.zeros(len(names)),
            "prompt_tokens": prompts,
            "output_tokens": summed("output_tokens", begun),
            "hit_rate": np.where(prompts > 0, cached / prompts, np.nan),
            "mean_jct_s": np.array([_mean(jct[row & completed]) for row in rows], float),
        }


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def summed_up(table: Columns, columns: Columns, lost_tokens: int) -> Summary:
    """utilisation: share of the time in which a replica ran, mean over the replicas. imbalance: of the busiest one over
    that mean; 1 is none. resent: jobs that were sent again because a replica failed; lost_tokens: output tokens that it
    had made of these.
    """
    used = table["utilisation"][np.isfinite(table["utilisation"])]
    mean = float(used.mean()) if len(used) else None
    return {
        "replicas": len(table["replica"]),
        "utilisation": mean,
        "imbalance": float(used.max()) / mean if mean else None,
        "resent": int(np.count_nonzero(columns["resent"])),
        "lost_tokens": lost_tokens,
    }
