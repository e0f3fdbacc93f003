"""The rows behind a reference, one a seed, committed with it: what notebooks read where there is no run of one's own.

results/reference/SCALE/EXPERIMENT.rows.json.gz: the run's provenance, and of its rows the measures that notebooks and
claims use, a column each, rounded to DIGITS significant digits. Written by `python -m experiments.check --accept`.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from experiments._lib.case import Row, to_json
from experiments._lib.sweep import RESULTS, IncompleteError, Outcome, finished
from fastserve.atomic_files import atomically
from fastserve.formats import check, stamp

KEPT = (
    "rate", "load", "mean_jct_s", "p95_jct_s", "p99_jct_s", "mean_s_per_token", "p95_s_per_token", "mean_ttft_s",
    "mean_slowdown", "max_slowdown", "preemptions_per_job", "mean_stalled_s", "recomputed_share", "throughput_rps",
    "unfinished", "collapsed", "programs_per_hour", "programs_per_hour_whole", "program_time_mean_s",
    "program_time_p95_s", "programs_abandoned", "p50_ttft_s", "p99_ttft_s", "max_ttft_s", "ttft_first_turn_p50_s",
    "ttft_first_turn_p99_s", "ttft_first_turn_max_s", "held_mean_s", "held_max_s", "imbalance",
)  # fmt: skip
OWN = (
    "_rate",
    "_censored",
    "attained_",
    "slowdown_",
    "_wait_s",
    "recovered_s",
    "queue_s",
    "swap_s",
    "execute_s",
    "swap_share",
)
"""parts of the names of measures that an experiment's own run() adds; kept too"""
STATISTICS = ("mean_", "p50_", "p95_", "p99_", "max_")
COUNTS = (
    "rate_drain_s", "rate_window_s", "program_window_s", "makespan_s", "offered_rps",
    "arrival_rps", "swapped_out_gib", "swapped_in_gib", "scheduling_events", "plans", "iterations",
    "recomputed_tokens", "cached_tokens", "cached_host_tokens", "evicted_tokens", "jain_index",
)  # fmt: skip
"""Beginnings and names of measures of every summary: of these, rows keep what a reference keeps; of others, all."""
NAME = "{}.rows.json.gz"
DIGITS = 8
"""of a committed number: enough that no interval that is shown with three turns out another"""
ABSENT = "-"
"""in a column: the row has no such measure, not even None"""


class Found(NamedTuple):
    """A run, and the provenance that its run.json has or had. made_here: not a committed one."""

    outcome: Outcome
    provenance: dict[str, Any]
    made_here: bool


def keeps(measure: str) -> bool:
    """Whether a reference keeps the mean of a measure."""
    return measure in KEPT or any(part in measure for part in OWN)


def row_keeps(measure: str) -> bool:
    """Whether a committed row keeps a measure."""
    return keeps(measure) or not (measure.startswith(STATISTICS) or measure in COUNTS)


def store(outcome: Outcome, folder: Path) -> Path:
    """Writes the rows of a run into a folder of references; the same rows give the same bytes. OutputError."""
    names = dict.fromkeys(name for row in outcome.rows for name in row.numbers if row_keeps(name))
    about = json.loads((outcome.folder / "run.json").read_text(encoding="utf-8"))
    document = stamp("rows") | {
        "experiment": outcome.experiment,
        "scale": outcome.scale,
        "run": outcome.folder.name,
        "provenance": about["provenance"],
        "seconds": round(outcome.seconds),
        "at": [row.at for row in outcome.rows],
        "seeds": [row.seed for row in outcome.rows],
        "numbers": {name: [rounded(row.numbers.get(name, ABSENT), DIGITS) for row in outcome.rows] for name in names},
    }
    text = json.dumps(to_json(document), separators=(",", ":"), allow_nan=False) + "\n"
    path = folder / NAME.format(outcome.experiment)
    with atomically(path) as draft:
        draft.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return path


def committed(experiment: str, scale: str) -> Found | None:
    """The committed rows of a run; None where none are. FormatError."""
    path = RESULTS / "reference" / scale / NAME.format(experiment)
    try:
        found = json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError:
        return None
    check("rows", found, path)
    rows = [
        Row(at, seed, {name: values[index] for name, values in found["numbers"].items() if values[index] != ABSENT})
        for index, (at, seed) in enumerate(zip(found["at"], found["seeds"], strict=True))
    ]
    return Found(Outcome(experiment, scale, path.parent, rows, found["seconds"]), found["provenance"], made_here=False)


def available(experiment: str, scale: str) -> Found:
    """The complete run of the present source, else the committed one. IncompleteError where there is neither."""
    try:
        outcome = finished(experiment, scale)
    except IncompleteError:
        there = committed(experiment, scale)
        if there is None:
            raise
        return there
    about = json.loads((outcome.folder / "run.json").read_text(encoding="utf-8"))
    return Found(outcome, about["provenance"], made_here=True)


def rounded(value: Any, digits: int) -> Any:
    """Numbers to so many significant digits, in lists and mappings too."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else value
    if isinstance(value, list):
        return [rounded(one, digits) for one in value]
    if isinstance(value, dict):
        return {name: rounded(one, digits) for name, one in value.items()}
    return value
