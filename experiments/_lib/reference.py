"""Reference results: condensed results of experiments, committed to the repository.

results/reference/SCALE/EXPERIMENT.json: settings, the means over seeds of what claims and figures show, and the claims.
Above the smoke scale the figures are stored too. Live results are in results/reference/live with their provenance;
they depend on the machine and are not checked.
"""

from __future__ import annotations

import json
import math
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments._lib.case import points, to_json
from experiments._lib.sweep import LIVE, RESULTS, SCALES, Outcome, load
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
BODIES = (
    "live_",
    "sim_",
    "tempo_",
    "hindsight_",
    "again_",
    "scheduler_share",
    "load_",
    "tokens_per_s",
    "mean_",
    "p95_",
)
"""prefixes of measures that a live experiment keeps too"""
DIGITS = 6


def path_of(experiment: str, scale: str) -> Path:
    """Path of the reference of an experiment."""
    return RESULTS / "reference" / ("live" if experiment in LIVE else scale) / f"{experiment}.json"


def condensed(outcome: Outcome) -> dict[str, Any]:
    """The condensed run: {experiment, scale, settings, seconds, points, claims}."""
    module = load(outcome.experiment)
    kept = []
    for point in points(outcome.rows):
        names = {
            name for row in point.rows for name, value in row.numbers.items()
            if name in KEPT or any(part in name for part in OWN)
            or (outcome.experiment in LIVE and name.startswith(BODIES) and not isinstance(value, list | dict))
        }  # fmt: skip
        means = {name: _rounded(point.mean(name)) for name in sorted(names)}
        kept.append({"at": point.at, "seeds": len(point.rows), "status": point.status, "means": means})
    claims = [
        {
            "figure": claim.figure,
            "text": claim.text,
            "ours": None if claim.ours is None else [None if x is None else _rounded(x) for x in claim.ours],
            "published": None if claim.published is None else str(claim.published),
            "source": None if claim.published is None else claim.published.source,
            "verdict": claim.verdict,
            "shown": claim.shown,
            "why": claim.why,
        }
        for claim in outcome.claims
    ]
    settings = to_json(module.SCALES[outcome.scale])
    head = stamp("reference") | {
        "experiment": outcome.experiment,
        "scale": outcome.scale,
        "run": outcome.folder.name,
        "settings": settings,
    }
    if outcome.experiment in LIVE:
        about = json.loads((outcome.folder / "run.json").read_text(encoding="utf-8"))
        head["provenance"] = about["provenance"]
        head["versions"] = {package: version(package) for package in ("torch", "transformers")}
    found: dict[str, Any] = to_json(head | {"seconds": round(outcome.seconds), "points": kept, "claims": claims})
    return found


def accept(outcome: Outcome) -> Path:
    """Stores a run as the reference of its scale. ValueError for a live run that would replace a larger one."""
    path = path_of(outcome.experiment, outcome.scale)
    found = condensed(outcome)
    if outcome.experiment in LIVE:
        known = reference(outcome.experiment, outcome.scale)
        if known is not None and SCALES.index(known["scale"]) > SCALES.index(outcome.scale):
            raise ValueError(f"{path} is of the {known['scale']} scale: a {outcome.scale} run does not replace it")
    head = {name: value for name, value in found.items() if name not in ("points", "claims")}
    lists = [
        f' "{name}": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in found[name]) + "\n ]"
        for name in ("points", "claims")
    ]
    text = json.dumps(head, indent=1).rstrip("\n}") + ",\n" + ",\n".join(lists) + "\n}\n"
    with atomically(path) as draft:
        draft.write_text(text, encoding="utf-8")
    if outcome.scale != "smoke":
        for figure in [*outcome.folder.glob("*.png"), *outcome.folder.glob("*.pdf")]:
            shutil.copyfile(figure, path.parent / f"{outcome.experiment}-{figure.name}")
    return path


def reference(experiment: str, scale: str) -> dict[str, Any] | None:
    """The committed reference; None if there is none."""
    try:
        found: dict[str, Any] = json.loads(path_of(experiment, scale).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    check("reference", found, path_of(experiment, scale))
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value
