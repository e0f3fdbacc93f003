"""python -m experiments.goodput --scale small

Claim (FastServe, NSDI'26 Fig. 13): the largest rate at which 95 % of the requests meet both a TTFT and a normalised-
latency objective is 1.46x to 1.64x that of fcfs (the artifact's own runs: 1.50, 1.72 and 2.14 for the 5x, 10x and 20x
objectives).

OPT-13B fit, ShareGPT-like lengths, batch cap 16, mixed batching, no visit guard, the artifact's protocol of 400
requests and a drain.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.case import At, Case, Numbers, Row, Workload, mean_of, points, replayed, search
from experiments._lib.claim import Claim, published, rated
from experiments._lib.claim import curve as published_curve
from experiments._lib.figure import PAGE, curve, draw, legend, look_of, published_points
from experiments._lib.sweep import main
from fastserve.metrics.finish import is_outcome
from fastserve.policies.spec import PolicySpec
from sim.report.run import Run
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICIES = {
    "fcfs": PolicySpec("fcfs"),
    "mlfq": PolicySpec("mlfq"),
    "sj-mlfq": PolicySpec("sj-mlfq"),
    "sj-mlfq (artifact)": PolicySpec("sj-mlfq", {"preset": "artifact"}),
    "srpt (oracle)": PolicySpec("srpt"),
}
SEARCHED = ("fcfs", "sj-mlfq", "sj-mlfq (artifact)")
OBJECTIVES = {"5x": (1.55, 0.15), "10x": (3.1, 0.3), "20x": (6.2, 0.6)}
"""seconds to the first token, seconds per output token: multiples of one decode iteration, from the artifact"""
MISSED = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers across policies"""
    requests: int = 400
    """of a burst, as in the artifact"""
    loads: tuple[float, ...] = (0.6, 0.8, 1.0, 1.3)
    """in units of what fcfs sustains"""
    policies: tuple[str, ...] = tuple(POLICIES)
    """which curves"""
    searched: tuple[str, ...] = SEARCHED
    """policies whose goodput is bisected"""
    tolerance: float = 0.05
    """relative width at which the bisection ends"""


SCALES = {
    "smoke": Scale(seeds=2, requests=150, loads=(0.8, 1.3), searched=("fcfs", "sj-mlfq (artifact)"), tolerance=0.2),
    "small": Scale(),
    "paper": Scale(seeds=10, loads=(0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.6, 2.0), tolerance=0.01),
}


def cases(scale: Scale) -> list[Case]:
    found = []
    workload = Workload(requests=scale.requests, lengths="profile:sharegpt")
    settings = Settings(max_batch=16, batching="mixed", visit=0, load=1.0)
    for seed in range(scale.seeds):
        for label in scale.policies:
            policy = POLICIES[label]
            for load in scale.loads:
                at: At = {"policy": label, "load": load}
                found.append(
                    Case(at=at, workload=workload, settings=settings.with_(load=load), policy=policy, seed=seed)
                )
            if label in scale.searched:
                options = {"lowest": 0.2, "highest": 4.0, "tolerance": scale.tolerance}
                at = {"policy": label, "search": "goodput"}
                found.append(
                    Case(at=at, workload=workload, settings=settings, policy=policy, seed=seed, options=options)
                )
    return found


def missed(run: Run, ttft_s: float, s_per_token: float) -> float:
    """Share of the requests that miss either objective; one that was rejected or did not end misses."""
    records = run.records
    done = is_outcome(records["finish"], "completed")
    good = done & (records["ttft"] <= ttft_s) & (records["s_per_token"] <= s_per_token)
    return 1 - float(np.mean(good))


def run(case: Case) -> Numbers:
    """Attainment of each pair of objectives at one load; or the rates at which 5 % miss."""
    if "highest" in case.options:
        measures = {name: partial(missed, ttft_s=pair[0], s_per_token=pair[1]) for name, pair in OBJECTIVES.items()}
        return search(case, measures, MISSED)
    done = replayed(case)
    numbers: Numbers = dict(done.summary)
    numbers |= {f"attained_{name}": 1 - missed(done, *pair) for name, pair in OBJECTIVES.items()}
    numbers["rate"], numbers["load"] = case.rate, case.settings.load
    return numbers


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    base = points(rows, policy="fcfs", search="goodput")
    for name, (ttft, per_token) in OBJECTIVES.items():
        objectives = f"TTFT {ttft} s and {per_token} s/token"
        for label in SEARCHED:
            mine = points(rows, policy=label, search="goodput")
            if not mine:
                continue
            text = f"P95 goodput of {label} at {name} ({objectives}), requests/s"
            missing = sum(row.numbers[f"{name}_censored"] for row in mine[0].rows)
            note = f"not reached in {missing} of {len(mine[0].rows)} seeds" if missing else ""
            side = "at least" if missing else ""
            found.append(Claim("Fig. 13", text, mean_of(mine[0], f"{name}_rate"), note=note, side=side))
            if label != "fcfs":
                text = f"P95 goodput at {name}, {label} over fcfs"
                gain = rated(mine[0], base[0], name)
                known = published("Fig. 13", f"artifact ratio {name}")
                found.append(Claim("Fig. 13", text, gain.ours, known, WHY, gain.note, gain.side))
                if name != "20x":
                    known = published("Fig. 13", "ratios")
                    found.append(Claim("Fig. 13, range", text, gain.ours, known, WHY, gain.note, gain.side))
    return found


WHY = (
    "the objectives are multiples of the paper's iteration time, not of ours; with 400 requests 5 % are 20 jobs, so "
    "that the interval is wide; preemption by ageing delays first tokens above what fcfs sustains"
)


def plot(rows: list[Row], folder: Path) -> None:
    def fill(figure: Figure) -> None:
        grid: Any = figure.subplots(1, len(OBJECTIVES), sharey=True)
        for axes, (name, (ttft, per_token)) in zip(grid, OBJECTIVES.items(), strict=True):
            for label in POLICIES:
                there = [point for point in points(rows, policy=label) if "load" in point.at]
                if there:
                    curve(axes, there, "rate", f"attained_{name}", label)
            for label in ("fcfs", "sj-mlfq"):
                known = published_curve("Fig. 13 artifact", f"{ttft} s, {per_token} s/token", label)
                published_points(axes, known.rates, [value / 100 for value in known.values], look_of(label))
            axes.axhline(1 - MISSED, color="#777777", linewidth=0.6)
            axes.set_title(f"TTFT {ttft:g} s, {per_token:g} s/token")
            axes.set_xlim(0.5, 4)
        grid[0].set_ylabel("share that meets both objectives")
        figure.supxlabel("requests per second (dotted: the artifact's own runs)", fontsize=8)
        legend(figure, grid[0], 5)

    draw(folder, "goodput", (PAGE, 2.4), fill)


if __name__ == "__main__":
    sys.exit(main("goodput"))
