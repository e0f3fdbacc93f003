"""python -m experiments.knobs --scale small

Question: which knobs of skip-join MLFQ matter, and which do not?

One knob at a time around the paper's preset, beside the artifact's preset and fcfs. OPT-13B fit, batch cap 16, whole
prefills mixed with decodes, the visit guard on unless it is the knob; two workloads with bursts, at a load below 1
and above it (a burst of the stated number of requests, then a drain).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.case import At, Case, Row, Workload, points
from experiments._lib.claim import Claim, compared
from experiments._lib.figure import PAGE, draw, plain_log
from experiments._lib.sweep import main
from fastserve.policies.spec import PolicySpec
from sim.report.style import BLUE, ORANGE
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KNOBS: dict[str, dict[str, Any]] = {
    "paper": {},
    "artifact": {"preset": "artifact"},
    "q1 5 ms": {"q1": 0.005},
    "q1 100 ms": {"q1": 0.1},
    "q1 1 s": {"q1": 1.0},
    "ratio 1.5": {"ratio": 1.5},
    "ratio 4": {"ratio": 4.0},
    "levels 4": {"levels": 4},
    "levels for prefills": {"levels": "prefill"},
    "levels unbounded": {"levels": "unbounded"},
    "eta 2": {"eta": 2},
    "demote to fit": {"demote_to": "fit"},
    "alpha 0 (never)": {"alpha": 0.0},
    "alpha 3 s": {"alpha": 3.0},
    "alpha 30 s": {"alpha": 30.0},
    "reinsert front": {"reinsert": "front"},
    "promote to front": {"promote_to": "front"},
    "carry overshoot": {"carry": True},
    "keep charge": {"reset": False},
    "priority eviction": {"eviction": "priority"},
}
SETTINGS: dict[str, dict[str, Any]] = {"charge by tokens": {"charging": "tokens"}, "no visit guard": {"visit": 0}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers across all variants"""
    requests: int = 400
    """of a run"""
    workloads: tuple[str, ...] = ("sharegpt", "azure-conv-2023")
    """profiles of lengths"""
    loads: tuple[float, ...] = (0.9, 1.3)
    """in units of what fcfs sustains"""
    cv: float = 2.0
    """of the gaps between arrivals"""
    knobs: tuple[str, ...] = (*KNOBS, *SETTINGS)
    """which variants"""


SCALES = {
    "smoke": Scale(seeds=2, requests=120, workloads=("azure-conv-2023",), loads=(0.9,)),
    "small": Scale(),
    "paper": Scale(seeds=10, requests=5000, loads=(0.7, 0.8, 0.9, 1.3)),
}


def cases(scale: Scale) -> list[Case]:
    found = []
    for lengths in scale.workloads:
        workload = Workload(requests=scale.requests, arrivals=f"gamma:cv={scale.cv:g}", lengths=f"profile:{lengths}")
        plain = Settings(max_batch=16, batching="mixed", max_backlog=scale.requests * 3 // 4)
        sustained = workload.sustained_rate(plain)
        for load in scale.loads:
            settings = plain.with_(rate=load * sustained)
            for seed in range(scale.seeds):
                for label in ("fcfs", *scale.knobs):
                    at: At = {"lengths": lengths, "load": load, "variant": label}
                    policy = PolicySpec("fcfs") if label == "fcfs" else PolicySpec("sj-mlfq", KNOBS.get(label, {}))
                    changed = settings.with_(**SETTINGS.get(label, {}))
                    found.append(Case(at=at, workload=workload, settings=changed, policy=policy, seed=seed))
    return found


MEASURES = (("mean_jct_s", "mean JCT"), ("mean_s_per_token", "mean s/token"), ("p99_jct_s", "P99 JCT"))


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for paper in points(rows, variant="paper"):
        where = {name: paper.at[name] for name in ("lengths", "load")}
        for variant in ("fcfs", "artifact"):
            other = points(rows, variant=variant, **where)[0]
            for measure, name in MEASURES:
                text = f"{where['lengths']} at load {where['load']:g}: {name}, {variant} over the paper's preset"
                change, mark = compared(other, paper, measure)
                if change and other.status != "ok":
                    mark = other.status
                found.append(Claim("knobs", text, change, note=mark))
        for measure, name in MEASURES:
            effects, stopped = [], []
            for variant in dict.fromkeys(str(row.at["variant"]) for row in rows):
                if variant not in ("fcfs", "paper", "artifact"):
                    gain, mark = compared(points(rows, variant=variant, **where)[0], paper, measure)
                    if gain:
                        effects.append((max(gain.mean, 1 / gain.mean), variant, gain))
                    else:
                        stopped.append((variant, mark))
            for variant, mark in stopped:
                text = f"{where['lengths']} at load {where['load']:g}: {name}, {variant} over the paper's preset"
                found.append(Claim("knobs", text, None, note=mark))
            largest = sorted(effects, reverse=True)[:3]
            for _, variant, gain in largest:
                text = f"{where['lengths']} at load {where['load']:g}: {name}, {variant} over the paper's preset"
                found.append(Claim("knobs (largest three)", text, gain))
            small = sum(effect < 1.03 for effect, _, _ in effects)
            text = f"{where['lengths']} at load {where['load']:g}: knobs that move {name} by less than 3 %"
            found.append(Claim("knobs", text, None, note=f"{small} of {len(effects)}"))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    draw(folder, "knobs", (PAGE, 4.6), lambda figure: _draw_bars(figure, rows))


def _draw_bars(figure: Figure, rows: list[Row]) -> None:
    variants = [name for name in dict.fromkeys(str(row.at["variant"]) for row in rows) if name != "paper"]
    papers = points(rows, variant="paper")
    grid: Any = figure.subplots(1, len(papers), squeeze=False, sharey=True)
    for axes, paper in zip(grid[0], papers, strict=True):
        where = {name: paper.at[name] for name in ("lengths", "load")}
        for shift, (measure, name, colour) in enumerate(
            (("mean_jct_s", "mean JCT", BLUE), ("mean_s_per_token", "mean s/token", ORANGE))
        ):
            for row, variant in enumerate(variants):
                gain, _ = compared(points(rows, variant=variant, **where)[0], paper, measure)
                if gain is None:
                    at_edge = axes.get_yaxis_transform()
                    axes.plot([0.96], [row + 0.3 * shift - 0.15], "x", color=colour, markersize=4, transform=at_edge)
                    continue
                error = [[gain.mean - (gain.low or gain.mean)], [(gain.high or gain.mean) - gain.mean]]
                axes.errorbar(
                    [gain.mean], [row + 0.3 * shift - 0.15], xerr=error, color=colour, marker="o", markersize=3,
                    linestyle="none", label=name if row == 0 else None,
                )  # fmt: skip
        axes.axvline(1, color="#777777", linewidth=0.6)
        axes.set_xscale("log")
        plain_log(axes.xaxis)
        axes.tick_params(axis="x", which="minor", bottom=False)
        axes.set_title(f"{where['lengths']},\nload {where['load']:g}")
    grid[0][0].set_yticks(range(len(variants)), variants)
    grid[0][0].invert_yaxis()
    figure.supxlabel(
        "over the paper's preset (above 1: slower than it; cross: runs were stopped, no ratio)", fontsize=8
    )
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)


if __name__ == "__main__":
    sys.exit(main("knobs"))
