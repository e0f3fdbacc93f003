"""python -m experiments.fidelity --scale small [--json]

Claim: the simulator tells what the live engine does. The same policy object, trace, pools and settings, on the embedded
model in this process and in the simulator, whose prediction is made before the live run from a profile made just then.

For each cell, a policy at a load under a residency, several paired runs: errors of mean, p50, p95 and p99 completion
time, of the time to the first token and of preemptions. Three things tell where an error comes from: the same trace
live once more ("again": the machine's noise), the same profile at the tempo that the machine had in each second of the
live run ("tempo": what is left is the simulator's), and a model fitted to the live run's own times ("hindsight": a
machine that stays as it was on average). docs/fidelity.md explains.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._case import Case, Numbers, Point, Row, Workload, points, to_json
from experiments._claim import Claim
from experiments._figure import COLUMN, PAGE, draw, legend, look_of
from experiments._live import Rig, again, here, pair, plan
from experiments._sweep import Outcome, main, sweep
from fastserve.measures import Ratio, paired_ratio
from sim.one import Contender
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SCALES", "cases", "claims", "document", "each", "error", "jobs", "joined", "plan", "plot", "run"]

POLICIES = ("fcfs", "mlfq", "sj-mlfq", "srpt")
LOADS = (0.5, 0.8, 0.95, 1.2)
RESIDENCIES = ("recompute", "reactive", "proactive")
AGAIN: dict[str, str | int | float] = {"again": 1}
SIMULATED = {
    "sim": ("o", "predicted", "simulated"),
    "tempo": ("+", "at the machine's tempo", "simulated at the machine's tempo"),
    "hindsight": ("|", "with its own times", "simulated with the run's own times"),
    "again": ("x", "live again", "live again"),
}
"""What a live run is compared with: marker, in a legend, in a claim."""
ERRORS = ("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s", "preemptions_per_job")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run. cells: (policy, load, residency)."""

    cells: tuple[tuple[str, float, str], ...]
    pairs: int = 5
    """paired runs of each cell, each on its own draw of the workload"""
    requests: int = 400
    prompt: str = "lognormal:3.2,0.6,8,128"
    output: str = "lognormal:3.4,1.0,1,256"
    rig: Rig
    """without load and residency, which the cells bring"""


_SMALL = (
    *[(policy, load, "proactive") for load in (0.8, 0.95) for policy in POLICIES],
    ("sj-mlfq", 0.95, "recompute"),
    ("sj-mlfq", 0.95, "reactive"),
    *[(policy, load, "proactive") for load in (0.5, 1.2) for policy in ("fcfs", "sj-mlfq")],
)
SCALES = {
    "smoke": Scale(
        cells=(("fcfs", 0.8, "proactive"), ("sj-mlfq", 0.8, "proactive")),
        pairs=3,
        requests=40,
        output="lognormal:2.0,0.9,1,48",
        rig=Rig(kv_tokens=1024, host_tokens=4096, calibrate_s=4.0),
    ),
    "small": Scale(cells=_SMALL, rig=Rig()),
    "paper": Scale(
        cells=tuple((p, load, r) for load in LOADS for r in RESIDENCIES for p in POLICIES), requests=1000, rig=Rig()
    ),
}


def cases(scale: Scale) -> list[Case]:
    """Pair by pair, all cells of a pair after each other: a drift of the machine meets all. fcfs runs twice."""
    workload = Workload(requests=scale.requests, lengths="", prompt=scale.prompt, output=scale.output)
    place = here()
    found = []
    for seed in range(scale.pairs):
        for policy, load, residency in scale.cells:
            at: dict[str, str | int | float] = {"policy": policy, "load": load, "residency": residency}
            for more in ({}, AGAIN) if policy == "fcfs" else ({},):
                rig = replace(scale.rig, load=load, residency=residency, again=bool(more), place=place)
                found.append(
                    Case(
                        at=at | more, workload=workload, settings=Settings(load=load), policy=Contender(policy),
                        seed=seed, options=asdict(rig),
                    )
                )  # fmt: skip
    return found


def run(case: Case) -> Numbers:
    rig = Rig(**case.options)
    return again(case, rig) if rig.again else pair(case, rig)


def joined(rows: list[Row]) -> list[Row]:
    """Numbers of a second live run beside those of the first: each is a case of its own, so that a kill costs one."""
    seconds = {(_cell_of(row), row.seed): row.numbers for row in rows if row.at.keys() >= AGAIN.keys()}
    firsts = [row for row in rows if not row.at.keys() >= AGAIN.keys()]
    return [Row(row.at, row.seed, row.numbers | seconds.get((_cell_of(row), row.seed), {})) for row in firsts]


def _cell_of(row: Row) -> tuple[Any, ...]:
    return tuple(row.at[name] for name in ("policy", "load", "residency"))


def error(cell: Point, measure: str, of: str = "sim") -> float | None:
    """Median over the paired runs of simulated over live, less 1; None where a live value is 0 or missing."""
    live = [row.numbers.get(f"live_{measure}") for row in cell.rows]
    other = [row.numbers.get(f"{of}_{measure}") for row in cell.rows]
    ratios = [b / a for a, b in zip(live, other, strict=True) if a and b is not None]
    return float(np.median(ratios)) - 1 if ratios else None


def each(cell: Point, of: str = "sim") -> list[float]:
    """The error of the mean completion time, pair by pair."""
    pairs = [(row.numbers.get(f"{of}_mean_jct_s"), row.numbers["live_mean_jct_s"]) for row in cell.rows]
    return [value / live - 1 for value, live in pairs if value is not None]


def worst(cells: list[Point], of: str = "sim", measure: str = "mean_jct_s") -> float | None:
    """The largest error of the measure over the cells, as a fraction, without its sign."""
    found = [abs(value) for cell in cells if (value := error(cell, measure, of)) is not None]
    return max(found, default=None)


def misranked(cells: list[Point]) -> list[str]:
    """Pairs of policies with disjoint live intervals that the simulation orders otherwise."""
    found = []
    for one, other in combinations(cells, 2):
        same = all(one.at[name] == other.at[name] for name in ("load", "residency"))
        mine, theirs = _interval(one), _interval(other)
        if not same or not (mine[1] < theirs[0] or theirs[1] < mine[0]):
            continue
        live = one.mean("live_mean_jct_s") < other.mean("live_mean_jct_s")
        simulated = one.mean("sim_mean_jct_s") < other.mean("sim_mean_jct_s")
        if live is not simulated:
            found.append(f"{one.at['policy']} and {other.at['policy']} at load {one.at['load']}, {one.at['residency']}")
    return found


def _interval(cell: Point) -> tuple[float, float]:
    values = cell.values("live_mean_jct_s")
    ratio = paired_ratio(values, [1.0] * len(values))
    return (ratio.mean if ratio.low is None else ratio.low), (ratio.mean if ratio.high is None else ratio.high)


def document(outcome: Outcome) -> dict[str, Any]:
    """What --json prints."""
    cells = points(outcome.rows)
    about = json.loads((outcome.folder / "run.json").read_text(encoding="utf-8"))
    wrong = misranked(cells)
    return {
        "experiment": outcome.experiment,
        "scale": outcome.scale,
        "worst_mean_jct_error": worst(cells),
        "ranking_equal": not wrong,
        "misranked": wrong,
        "worst_mean_jct_error_at_the_machines_tempo": worst(cells, "tempo"),
        "worst_p95_jct_error_at_the_machines_tempo": worst(cells, "tempo", "p95_jct_s"),
        "worst_p99_jct_error_at_the_machines_tempo": worst(cells, "tempo", "p99_jct_s"),
        "worst_mean_jct_error_with_the_runs_own_times": worst(cells, "hindsight"),
        "noise_floor_mean_jct": worst(cells, "again"),
        "largest_load_average": max(max(cell.values("load_average")) for cell in cells),
        "scheduler_share": max(max(cell.values("scheduler_share")) for cell in cells),
        "cells": [_cell(cell) for cell in cells],
        "provenance": about["provenance"],
        "settings": about["settings"],
    }


def _cell(cell: Point) -> dict[str, Any]:
    ends = {of: {measure: error(cell, measure, of) for measure in ERRORS} for of in SIMULATED}
    low, high = _interval(cell)
    return {
        **cell.at,
        "pairs": len(cell.rows),
        "rate": cell.mean("rate"),
        "live_mean_jct_s": cell.mean("live_mean_jct_s"),
        "live_interval": [low, high],
        "sim_mean_jct_s": cell.mean("sim_mean_jct_s"),
        "errors": ends["sim"],
        "errors_at_the_machines_tempo": ends["tempo"],
        "errors_with_the_runs_own_times": ends["hindsight"],
        "live_again": ends["again"] if cell.values("again_mean_jct_s") else None,
        "each_pair": {of: each(cell, of) for of in SIMULATED},
        "load_by_each_profile": cell.values("load_now"),
        "drift": [row.numbers["drift"] for row in cell.rows],
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def special(args: argparse.Namespace) -> bool:
    """--json."""
    if args.json:
        print(json.dumps(to_json(document(sweep("fidelity", args.scale))), indent=1))
    return bool(args.json)


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for cell in points(rows):
        name = f"{cell.at['policy']}, load {cell.at['load']}, {cell.at['residency']}"
        for of, (_, _, what) in SIMULATED.items():
            pairs = [(row.numbers.get(f"{of}_mean_jct_s"), row.numbers["live_mean_jct_s"]) for row in cell.rows]
            ratios = [a / b for a, b in pairs if a]
            if ratios:
                spread = Ratio(float(np.median(ratios)), min(ratios), max(ratios))
                found.append(Claim("fidelity", f"{name}: mean JCT, {what} over live (median, range)", spread))
    return found


def jobs(axes: Any, cells: list[Point], of: str) -> None:
    """A dot for each job: its live completion time and that of simulation `of`."""
    for policy in dict.fromkeys(str(cell.at["policy"]) for cell in cells):
        mine = [row for cell in cells if cell.at["policy"] == policy for row in cell.rows]
        live, simulated = (np.concatenate([row.numbers[f"{body}_jct"] for row in mine]) for body in ("live", of))
        style = look_of(policy)
        axes.plot(live, simulated, linestyle="none", marker=style.marker, markersize=2, alpha=0.4, color=style.colour,
                  label=policy, rasterized=True)  # fmt: skip
    axes.axline((1, 1), slope=1, color="#777777", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("live job completion time (s)")
    axes.set_title(SIMULATED[of][1])


def plot(rows: list[Row], folder: Path) -> None:
    cells = points(rows)

    def scatter(figure: Figure) -> None:
        panels: Any = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, of in zip(panels, ("sim", "tempo"), strict=True):
            jobs(axes, cells, of)
        panels[0].set_ylabel("simulated (s)")
        legend(figure, panels[0])

    def bars(figure: Figure) -> None:
        axes: Any = figure.subplots()
        for row, cell in enumerate(cells):
            style = look_of(str(cell.at["policy"]))
            for of, (marker, label, _) in SIMULATED.items():
                value = error(cell, "mean_jct_s", of)
                if value is not None:
                    axes.plot(100 * value, row, marker, color=style.colour, label=label if row == 0 else None)
        axes.axvline(0, color="#777777", linewidth=0.6)
        axes.set_yticks(range(len(cells)), [" ".join(str(value) for value in cell.at.values()) for cell in cells])
        axes.set_xlabel("mean JCT over live, less 1 (%)")
        axes.legend()

    draw(folder, "jobs", (PAGE, 3.2), scatter)
    draw(folder, "errors", (COLUMN, 1.4 + 0.25 * len(cells)), bars)


if __name__ == "__main__":
    sys.exit(main("fidelity"))
