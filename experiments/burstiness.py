"""python -m experiments.burstiness --scale small

Claim (FastServe's first version, arXiv 2305.05920v1): up to 5.1x in mean and 6.4x in tail JCT over run-to-completion
with iteration-level batching (Orca), for Gamma arrivals and Zipf lengths. Where is that so?

Prompts and outputs are Zipf with exponent theta over 1 to 1024 tokens, arrivals Gamma with a CV, the load in units of
what fcfs sustains with paged memory. "orca" is fcfs that reserves the longest possible context when a job joins,
which is what the first version was compared with; "fcfs" has the same paged memory as the others. Batch cap 16, whole
prefills mixed with decodes, no visit guard, and the pool of a 40G card.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.case import At, Case, Row, Workload, points, ratio
from experiments._lib.claim import Claim, published
from experiments._lib.figure import PAGE, draw, look_of, plain_log
from experiments._lib.sweep import main
from fastserve.metrics.summary import Ratio
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICIES = ("orca", "fcfs", "mlfq", "sj-mlfq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers across policies"""
    requests: int = 600
    """of a run, measured to the end of the drain"""
    cvs: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """coefficients of variation of the gaps"""
    thetas: tuple[float, ...] = (0.8, 1.2)
    """exponents of the lengths; the smaller, the longer the tail"""
    loads: tuple[float, ...] = (0.7, 0.9, 1.2)
    """in units of what fcfs sustains"""
    backlog: int = 500
    """live jobs at which a run is stopped"""


SCALES = {
    "smoke": Scale(seeds=2, requests=150, cvs=(1.0, 4.0), thetas=(1.2,), loads=(0.9,)),
    "small": Scale(),
    "paper": Scale(
        seeds=10,
        requests=5000,
        thetas=(0.6, 0.8, 1.0, 1.2, 1.5),
        loads=(0.5, 0.7, 0.8, 0.9, 1.0, 1.2),
        backlog=2500,
    ),
}


def cases(scale: Scale) -> list[Case]:
    found = []
    for theta in scale.thetas:
        for cv in scale.cvs:
            law = f"zipf:theta={theta:g},lo=1,hi=1024"
            workload = Workload(requests=scale.requests, arrivals=f"gamma:cv={cv:g}", lengths=law)
            paged = Settings(latency="opt-13b-a100-40g", max_batch=16, batching="mixed", visit=0)
            sustained = workload.sustained_rate(paged)
            for load in scale.loads:
                for label in POLICIES:
                    settings = paged.with_(
                        rate=load * sustained, max_backlog=scale.backlog, whole_context=label == "orca"
                    )
                    at: At = {"theta": theta, "cv": cv, "load": load, "policy": label}
                    policy = PolicySpec("fcfs" if label == "orca" else label)
                    found += [
                        Case(at=at, workload=workload, settings=settings, policy=policy, seed=seed)
                        for seed in range(scale.seeds)
                    ]
    return found


def gains(rows: list[Row], base: str, measure: str) -> dict[tuple[float, float, float], Ratio]:
    """(theta, cv, load) -> measure under `base` over that under sj-mlfq; only where neither was stopped."""
    found = {}
    for mine in points(rows, policy="sj-mlfq"):
        where = {name: value for name, value in mine.at.items() if name != "policy"}
        other = points(rows, policy=base, **where)[0]
        gain = ratio(other, mine, measure)
        if gain and not (mine.mean("collapsed") or other.mean("collapsed")):
            found[float(mine.at["theta"]), float(mine.at["cv"]), float(mine.at["load"])] = gain
    return found


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for base in ("orca", "fcfs"):
        for measure, name, what in (
            ("mean_jct_s", "mean JCT", "mean JCT gain"),
            ("p95_jct_s", "P95 JCT", "tail JCT gain"),
            ("mean_s_per_token", "mean s/token", ""),
        ):
            there = gains(rows, base, measure)
            if not there:
                continue
            place = max(there, key=lambda at: there[at].mean)
            note = "at theta {:g}, CV {:g}, load {:g}".format(*place)
            known = published("v1", what) if what else None
            text = f"largest gain in {name}, {base} over sj-mlfq"
            found.append(Claim("v1", text, there[place], known, WHY, note))
            worst = min(there, key=lambda at: there[at].mean)
            note = "at theta {:g}, CV {:g}, load {:g}".format(*worst)
            found.append(Claim("v1", f"smallest gain in {name}, {base} over sj-mlfq", there[worst], note=note))
            better = sum(gain.mean > 1.05 for gain in there.values())
            text = f"settings in which sj-mlfq is more than 5 % better than {base} in {name}"
            found.append(Claim("v1", text, None, note=f"{better} of {len(there)}"))
    return found


WHY = (
    "the first version's models, pool and rates are not known to us; our largest gain is over the settings of this "
    "sweep, not over theirs"
)


def plot(rows: list[Row], folder: Path) -> None:
    draw(folder, "burstiness", (PAGE, 3.6), lambda figure: _draw_gains(figure, rows))


def _draw_gains(figure: Figure, rows: list[Row]) -> None:
    thetas = sorted({float(row.at["theta"]) for row in rows})
    loads = sorted({float(row.at["load"]) for row in rows})
    grid: Any = figure.subplots(len(thetas), len(loads), squeeze=False, sharex=True, sharey=True)
    for line, theta in zip(grid, thetas, strict=True):
        for axes, load in zip(line, loads, strict=True):
            for base, dash in (("orca", "--"), ("fcfs", "-")):
                for measure, name, marker in (("mean_jct_s", "mean", "^"), ("p95_jct_s", "P95", "v")):
                    there = gains(rows, base, measure)
                    cvs = sorted(cv for at, cv, at_load in there if (at, at_load) == (theta, load))
                    means = [there[theta, cv, load].mean for cv in cvs]
                    axes.plot(
                        cvs,
                        means,
                        linestyle=dash,
                        color=look_of("sj-mlfq" if base == "fcfs" else "orca").colour,
                        marker=marker,
                        markerfacecolor="white" if name == "P95" else None,
                        label=f"{name} JCT over {base}",
                    )
            axes.axhline(1, color="#777777", linewidth=0.6)
            axes.set_title(f"theta {theta:g}, load {load:g}")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            plain_log(axes.yaxis)
            axes.xaxis.set_major_formatter("{x:g}")
    figure.supxlabel("coefficient of variation of the gaps between arrivals", fontsize=8)
    figure.supylabel("JCT of the baseline over sj-mlfq's", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)


if __name__ == "__main__":
    sys.exit(main("burstiness"))
