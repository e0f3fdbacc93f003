"""python -m experiments.length_ratio --scale small

Claim (FastServe, NSDI'26 Fig. 16): over input/output length ratios from 0.25 to 256, skip-join MLFQ beats fcfs by up
to 8.9x, naive MLFQ by up to 1.87x and fixed priority by up to 13.9x in normalised latency; naive MLFQ is bad at large
ratios, fixed priority at small ones.

The paper says neither how it varies the ratio nor at which rate. Ours: ShareGPT prompts and outputs, drawn
independently, are scaled so that their means have the ratio and their mean total stays; a burst of 400 requests at a
stated load, then a drain (and a load below 1 beside it). OPT-13B fit, batch cap 16, mixed batching, no visit guard.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.case import At, Case, Point, Row, Workload, points, ratio
from experiments._lib.claim import Claim, published
from experiments._lib.figure import PAGE, curve, draw, legend, plain_log
from experiments._lib.sweep import main
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICIES = ("fcfs", "mlfq", "sj-mlfq", "fixed-priority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers across policies"""
    requests: int = 400
    """of a burst"""
    ratios: tuple[float, ...] = (0.25, 1.0, 4.0, 16.0, 64.0, 256.0)
    """prompt over output tokens"""
    loads: tuple[float, ...] = (0.9, 1.5)
    """in units of what fcfs sustains at that ratio"""


SCALES = {
    "smoke": Scale(seeds=2, requests=100, ratios=(0.25, 64.0), loads=(1.5,)),
    "small": Scale(),
    "paper": Scale(seeds=10, ratios=tuple(2.0**k for k in range(-2, 9)), loads=(0.7, 0.9, 1.2, 1.5, 2.0)),
}


def cases(scale: Scale) -> list[Case]:
    found = []
    for split in scale.ratios:
        workload = Workload(requests=scale.requests, lengths="profile:sharegpt", ratio=split)
        for load in scale.loads:
            settings = Settings(max_batch=16, batching="mixed", visit=0, load=load)
            for label in POLICIES:
                at: At = {"ratio": split, "load": load, "policy": label}
                found += [
                    Case(at=at, workload=workload, settings=settings, policy=PolicySpec(label), seed=seed)
                    for seed in range(scale.seeds)
                ]
    return found


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for load in sorted({float(row.at["load"]) for row in rows}):
        for base in ("fcfs", "mlfq", "fixed-priority"):
            gains = []
            for mine in points(rows, policy="sj-mlfq", load=load):
                other: Point = points(rows, policy=base, load=load, ratio=mine.at["ratio"])[0]
                gain = ratio(other, mine, "mean_s_per_token")
                if gain:
                    gains.append((gain, mine.at["ratio"]))
            best, at = max(gains, key=lambda pair: pair[0].mean)
            known = published("Fig. 16", f"largest gain over {base}") if load > 1 else None
            text = f"largest gain in mean s/token at load {load:g}, {base} over sj-mlfq"
            found.append(Claim("Fig. 16", text, best, known, WHY, f"at a ratio of {at:g}"))
            worst, at = min(gains, key=lambda pair: pair[0].mean)
            text = f"smallest gain in mean s/token at load {load:g}, {base} over sj-mlfq"
            found.append(Claim("Fig. 16", text, worst, note=f"at a ratio of {at:g}"))
    return found


WHY = "the rate and the way of varying the ratio are not published; the gain depends on both"


def plot(rows: list[Row], folder: Path) -> None:
    def fill(figure: Figure) -> None:
        loads = sorted({float(row.at["load"]) for row in rows})
        grid: Any = figure.subplots(2, len(loads), squeeze=False, sharex=True)
        for line, (measure, title) in zip(
            grid, (("mean_s_per_token", "mean s per output token"), ("mean_jct_s", "mean JCT (s)")), strict=True
        ):
            for axes, load in zip(line, loads, strict=True):
                for label in POLICIES:
                    curve(axes, points(rows, load=load, policy=label), "ratio", measure, label)
                axes.set_xscale("log", base=4)
                axes.set_yscale("log")
                plain_log(axes.yaxis)
                axes.xaxis.set_major_formatter("{x:g}")
                axes.set_title(f"load {load:g}")
            line[0].set_ylabel(title)
        figure.supxlabel("prompt tokens over output tokens", fontsize=8)
        legend(figure, grid[0][0], 4)

    draw(folder, "length_ratio", (PAGE, 4.0), fill)


if __name__ == "__main__":
    sys.exit(main("length_ratio"))
