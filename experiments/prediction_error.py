"""python -m experiments.prediction_error --scale small

Question: how good must a length prediction be before sjf or srpt beats skip-join MLFQ, which needs none?

The guess is the true output length times exp(sigma z), z standard normal. Azure-conversation-like and ShareGPT-like
lengths, OPT-13B fit, batch cap 16, chunked prefill, visit guard on; Gamma arrivals of CV 2, so that queues form at a
load below 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.case import Case, Point, Row, Workload, points, ratio
from experiments._lib.claim import Claim
from experiments._lib.figure import PAGE, curve, draw, legend, look_of
from experiments._lib.sweep import main
from fastserve.metrics.summary import Ratio
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers; a job's error is the same under sjf and srpt"""
    requests: int = 1000
    """of a run"""
    load: float = 0.9
    """in units of what fcfs sustains"""
    sigmas: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
    """of the lognormal error of the guess"""
    lengths: tuple[str, ...] = ("azure-conv-2023", "sharegpt")
    """profiles of lengths"""
    backlog: int = 400
    """live jobs at which a run is stopped"""


SCALES = {
    "smoke": Scale(seeds=2, requests=150, sigmas=(0.0, 1.0), lengths=("azure-conv-2023",)),
    "small": Scale(),
    "paper": Scale(seeds=10, requests=10_000, sigmas=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0), backlog=2000),
}


def cases(scale: Scale) -> list[Case]:
    found = []
    for lengths in scale.lengths:
        workload = Workload(requests=scale.requests, arrivals="gamma:cv=2", lengths=f"profile:{lengths}")
        for seed in range(scale.seeds):
            for label, policy in (("fcfs", "fcfs"), ("sj-mlfq", "sj-mlfq"), ("sjf", "sjf"), ("srpt", "srpt")):
                for sigma in scale.sigmas if policy in ("sjf", "srpt") else (0.0,):
                    settings = Settings(
                        max_batch=16, load=scale.load, predictor=f"lognormal:{sigma:g}", max_backlog=scale.backlog
                    )
                    at: dict[str, str | int | float] = {"lengths": lengths, "policy": label, "sigma": sigma}
                    found.append(
                        Case(
                            at=at,
                            workload=workload,
                            settings=settings,
                            policy=PolicySpec(policy),
                            seed=seed,
                            warmup=0.1,
                        )
                    )
    return found


MEASURES = (("mean_jct_s", "mean JCT"), ("mean_s_per_token", "mean s/token"), ("p99_jct_s", "P99 JCT"))


def crossing(rows: list[Row], lengths: str, policy: str, measure: str) -> Ratio | None:
    """The sigma at which the policy's mean rises above sj-mlfq's, between those that were run; None if it does not."""
    level = points(rows, lengths=lengths, policy="sj-mlfq")[0].mean(measure)
    there = sorted(points(rows, lengths=lengths, policy=policy), key=lambda point: float(point.at["sigma"]))
    for left, right in pairwise(there):
        low, high = left.mean(measure), right.mean(measure)
        if low <= level < high:
            a, b = float(left.at["sigma"]), float(right.at["sigma"])
            return Ratio(a + (b - a) * (level - low) / (high - low), a, b)
    return None


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for lengths in dict.fromkeys(str(row.at["lengths"]) for row in rows):
        base = points(rows, lengths=lengths, policy="fcfs")[0]
        for measure, name in MEASURES:
            mlfq = points(rows, lengths=lengths, policy="sj-mlfq")[0]
            found.append(Claim("prediction error", f"{lengths}: {name}, fcfs over sj-mlfq", ratio(base, mlfq, measure)))
            for policy in ("sjf", "srpt"):
                exact = points(rows, lengths=lengths, policy=policy, sigma=0.0)[0]
                text = f"{lengths}: {name}, fcfs over {policy} with exact lengths"
                found.append(Claim("prediction error", text, ratio(base, exact, measure)))
                at = crossing(rows, lengths, policy, measure)
                text = f"{lengths}: sigma at which {policy} falls behind sj-mlfq in {name}"
                behind = exact.mean(measure) > mlfq.mean(measure)
                missed = "behind with exact lengths already" if behind else "not within the sigmas that were run"
                note = "interval: the two sigmas around it" if at else missed
                found.append(Claim("prediction error", text, at, note=note))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    def fill(figure: Figure) -> None:
        lengths = list(dict.fromkeys(str(row.at["lengths"]) for row in rows))
        grid: Any = figure.subplots(len(lengths), len(MEASURES), squeeze=False, sharex=True)
        for line, name in zip(grid, lengths, strict=True):
            for axes, (measure, title) in zip(line, MEASURES, strict=True):
                for policy in ("sjf", "srpt"):
                    curve(axes, points(rows, lengths=name, policy=policy), "sigma", measure, policy)
                for policy in ("fcfs", "sj-mlfq"):
                    level: Point = points(rows, lengths=name, policy=policy)[0]
                    style = look_of(policy)
                    axes.axhline(level.mean(measure), color=style.colour, linestyle="--", label=policy)
                axes.set_title(f"{name}: {title}")
                axes.set_ylim(bottom=0)
            line[0].set_ylabel("seconds")
        figure.supxlabel("sigma of the lognormal error of the predicted output length", fontsize=8)
        legend(figure, grid[0][0], 4)

    draw(folder, "prediction_error", (PAGE, 1.0 + 1.6 * len({row.at["lengths"] for row in rows})), fill)


if __name__ == "__main__":
    sys.exit(main("prediction_error"))
