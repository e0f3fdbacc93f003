"""Reference results: condensed results of experiments, committed to the repository.

results/reference/SCALE/EXPERIMENT.json: settings, the means over seeds of what claims and figures show, and the claims.
Above the smoke scale the figures are stored too, and the rows (committed_rows.py). Live results are in
results/reference/live with their provenance; they depend on the machine and are not checked.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments._lib.case import points, to_json
from experiments._lib.committed_rows import keeps, rounded, store
from experiments._lib.sweep import LIVE, RESULTS, SCALES, Outcome, load
from fastserve.atomic_files import atomically
from fastserve.formats import check, stamp

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
            if keeps(name)
            or (outcome.experiment in LIVE and name.startswith(BODIES) and not isinstance(value, list | dict))
        }  # fmt: skip
        means = {name: rounded(point.mean(name), DIGITS) for name in sorted(names)}
        kept.append({"at": point.at, "seeds": len(point.rows), "status": point.status, "means": means})
    claims = [
        {
            "figure": claim.figure,
            "text": claim.text,
            "ours": None if claim.ours is None else [None if x is None else rounded(x, DIGITS) for x in claim.ours],
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
        if outcome.experiment not in LIVE:
            store(outcome, path.parent)
    return path


def reference(experiment: str, scale: str) -> dict[str, Any] | None:
    """The committed reference; None if there is none."""
    try:
        found: dict[str, Any] = json.loads(path_of(experiment, scale).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    check("reference", found, path_of(experiment, scale))
    return found
