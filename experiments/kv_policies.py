"""python -m experiments.kv_policies --scale small

Claim (FastServe, NSDI'26 Fig. 17, OPT-13B on one A100-40G): at 0.3 s per output token proactive swapping sustains
2.7x the rate of recomputation and 1.7x that of reactive swapping, and swapping takes less than 5 % of a job's time.

Pool of 14,800 tokens, host of 56 GiB, ShareGPT-like lengths, batch cap 16, bursts of 400 requests as in the artifact.
The paper has no visit guard (visit=0); beside it the same with the guard. Around that point: the device pool, the
link (one way, or both ways at once at twice the sum), and the order in which KV leaves (ENST, or the order of
priority). A run with more live jobs than a stated bound is stopped and marked.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.case import (
    At,
    Case,
    Numbers,
    Point,
    Row,
    Workload,
    mean_of,
    points,
    rate_gain,
    replayed,
    search,
)  # fmt: skip
from experiments._lib.claim import Claim, compared, published
from experiments._lib.claim import curve as published_curve
from experiments._lib.figure import COLUMN, PAGE, curve, draw, legend, plain_log
from experiments._lib.sweep import main
from fastserve.metrics.summary import Ratio
from fastserve.policies.spec import PolicySpec
from sim.capacity import Normalised
from sim.report.style import BLUE, GREEN, ORANGE, SKY, VERMILION, Look
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OBJECTIVE = 0.3  # s per output token
RESIDENCIES = ("recompute", "reactive", "proactive")
PAPER = Settings(latency="opt-13b-a100-40g", max_batch=16, batching="mixed", visit=0)
LOOKS = {
    "recompute": Look(VERMILION, "X", "-"),
    "reactive": Look(ORANGE, "s", "-"),
    "proactive": Look(BLUE, "^", "-"),
}
AROUND: dict[str, dict[str, Any]] = {
    "as the paper": {},
    "pool 7,400 tokens": {"kv_tokens": 7_400},
    "pool 29,600 tokens": {"kv_tokens": 29_600},
    "pool 66,144 tokens": {"kv_tokens": 66_144},
    "pool unlimited": {"kv_tokens": "unlimited"},
    "link 16 GB/s each way": {"link_gb_s": 16.0},
    "link 64 GB/s each way": {"link_gb_s": 64.0},
    "link 32 GB/s, one way at a time": {"duplex": False},
    "priority order instead of ENST": {"evict": "reverse"},
    "no idle blocks for arrivals": {"kv_reserve": 0},
    "visit guard 64": {"visit": 64},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers across policies"""
    requests: int = 400
    """of a burst, as in the artifact"""
    rates: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5)
    """requests/s: the axis of the paper's figure"""
    visits: tuple[int, ...] = (0, 64)
    """visit guard: off, as in the paper, and on"""
    around: float = 2.0
    """requests/s at which pool, link and order are varied"""
    backlog: int = 250
    """live jobs at which a run is stopped"""
    searched: bool = True
    """whether the rate at the objective is bisected"""
    tolerance: float = 0.06
    """relative width at which the bisection of a crossing ends"""


SCALES = {
    "smoke": Scale(seeds=2, requests=100, rates=(2.0,), visits=(0,), backlog=80, searched=False),
    "small": Scale(),
    "paper": Scale(seeds=10, rates=(0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0), backlog=390, tolerance=0.01),
}


def cases(scale: Scale) -> list[Case]:
    found = []
    workload = Workload(requests=scale.requests, lengths="profile:sharegpt")
    base = PAPER.with_(max_backlog=scale.backlog)
    policy = PolicySpec("sj-mlfq")
    for seed in range(scale.seeds):
        for visit in scale.visits:
            for residency in RESIDENCIES:
                settings = base.with_(residency=residency, visit=visit)
                where: At = {"sweep": "rate", "residency": residency, "visit": visit}
                for rate in scale.rates:
                    at = where | {"rate": rate}
                    found.append(
                        Case(at=at, workload=workload, settings=settings.with_(rate=rate), policy=policy, seed=seed)
                    )
                if not scale.searched:
                    continue
                options = {"lowest": 0.3, "highest": 5.0, "tolerance": scale.tolerance}
                at = where | {"sweep": "crossing"}
                found.append(
                    Case(at=at, workload=workload, settings=settings, policy=policy, seed=seed, options=options)
                )
        for variant, changes in AROUND.items():
            settings = base.with_(rate=scale.around, **changes)
            around: At = {"sweep": "around", "variant": variant}
            found.append(Case(at=around, workload=workload, settings=settings, policy=policy, seed=seed))
    return found


def run(case: Case) -> Numbers:
    """A run with its time split three ways, or the rate at the objective."""
    if "highest" in case.options:
        measures = {"mean_s_per_token": lambda run: run.summary["mean_s_per_token"]}
        return search(case, measures, OBJECTIVE, lambda trace: Normalised([np.mean], OBJECTIVE))
    numbers: Numbers = dict(replayed(case).summary)
    queue = (numbers["mean_queued_s"] or 0.0) + (numbers["mean_preempted_s"] or 0.0)
    numbers["queue_s"], numbers["swap_s"] = queue, numbers["mean_stalled_s"]
    numbers["execute_s"] = numbers["mean_jct_s"] - queue - numbers["swap_s"]
    numbers["swap_share"] = numbers["swap_s"] / numbers["mean_jct_s"]
    numbers["rate"], numbers["load"] = case.rate, case.rate / case.workload.sustained_rate(case.settings)
    return numbers


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for visit in sorted({int(row.at["visit"]) for row in rows if "visit" in row.at}, reverse=False):
        known = visit == 0
        there = {name: points(rows, sweep="crossing", residency=name, visit=visit) for name in RESIDENCIES}
        for name in RESIDENCIES if there["proactive"] else ():
            text = f"rate at mean {OBJECTIVE} s/token, {name}, visit {visit}, requests/s"
            ours = mean_of(there[name][0], "mean_s_per_token_rate")
            found.append(Claim("Fig. 17a", text, ours, published("Fig. 17a", f"{name} rate") if known else None, WHY))
        for other in ("recompute", "reactive") if there["proactive"] else ():
            gain = rate_gain(there["proactive"], there[other], "mean_s_per_token")
            text = f"rate at mean {OBJECTIVE} s/token, proactive over {other}, visit {visit}"
            theirs = published("Fig. 17a", f"proactive over {other}") if known else None
            found.append(Claim("Fig. 17a", text, gain, theirs, WHY))
        for point in points(rows, sweep="rate", residency="proactive", visit=visit):
            share = _share(point)
            text = f"share of a job's time spent swapping at {point.at['rate']:g} requests/s, proactive, visit {visit}"
            theirs = published("Fig. 17b", "largest swap share") if known else None
            found.append(Claim("Fig. 17b", text, share, theirs, WHY, "" if point.status == "ok" else point.status))
    base = points(rows, sweep="around", variant="as the paper")[0]
    for variant in list(AROUND)[1:]:
        other_point = points(rows, sweep="around", variant=variant)[0]
        text = f"mean s/token, {variant} over as the paper"
        change, mark = compared(other_point, base, "mean_s_per_token")
        if change and (base.status, other_point.status) != ("ok", "ok"):
            mark = f"{base.status} before, {other_point.status} after"
        found.append(Claim("Fig. 17", text, change, note=mark))
    return found


def _share(point: Point) -> Ratio:
    low, high = point.spread("swap_share")
    return Ratio(point.mean("swap_share"), low, high)


WHY = (
    "the paper states neither batch cap nor lengths of this ablation; a blocking copy stops the whole batch here, and "
    "ageing with alpha 0.3 s moves KV at nearly every visit once jobs wait"
)


def plot(rows: list[Row], folder: Path) -> None:
    draw(folder, "kv_rate", (PAGE, 2.4), lambda figure: _draw_rates(figure, rows))
    draw(folder, "kv_time", (COLUMN, 2.6), lambda figure: _draw_time(figure, rows))
    draw(folder, "kv_around", (COLUMN, 2.8), lambda figure: _draw_around(figure, rows))


def _draw_rates(figure: Figure, rows: list[Row]) -> None:
    visits = sorted({int(row.at["visit"]) for row in rows if "visit" in row.at})
    grid: Any = figure.subplots(1, len(visits), squeeze=False, sharey=True)
    for axes, visit in zip(grid[0], visits, strict=True):
        for name, style in LOOKS.items():
            there = points(rows, sweep="rate", residency=name, visit=visit)
            curve(axes, there, "rate", "mean_s_per_token", name, style)
            paper = published_curve("Fig. 17a", "OPT-13B", name)
            axes.plot(
                paper.rates, paper.values, color=style.colour, linestyle=":", linewidth=0.8, label=f"{name}, published"
            )
        axes.axhline(OBJECTIVE, color="#777777", linewidth=0.6)
        axes.set_yscale("log")
        plain_log(axes.yaxis)
        axes.set_xlim(0.4, 3.2)
        axes.set_title("no visit guard, as in the paper" if visit == 0 else f"visit guard {visit}")
        axes.set_xlabel("requests per second")
    grid[0][0].set_ylabel("mean s per output token")
    legend(figure, grid[0][0], 6)


def _draw_time(figure: Figure, rows: list[Row]) -> None:
    axes: Any = figure.subplots()
    visit = min(int(row.at["visit"]) for row in rows if "visit" in row.at)
    there = points(rows, sweep="rate", residency="proactive", visit=visit)
    paper = {name: published_curve("Fig. 17b", "OPT-13B", name) for name in ("queuing", "swapping", "execution")}
    for shift, known in ((-0.2, False), (0.2, True)):
        for row, point in enumerate(there):
            parts = [point.mean(name) for name in ("queue_s", "swap_s", "execute_s")]
            if known:
                rate = float(point.at["rate"])
                parts = [dict(zip(c.rates, c.values, strict=True)).get(rate, float("nan")) for c in paper.values()]
            total, left = sum(parts), 0.0
            for part, colour, name in zip(parts, (SKY, VERMILION, GREEN), ("queue", "swap", "execution"), strict=True):
                label = name if row == 0 and not known else None
                axes.barh(
                    row + shift,
                    part / total,
                    left=left,
                    height=0.35,
                    color=colour,
                    label=label,
                    alpha=0.6 if known else 1,
                )
                left += part / total
    axes.set_yticks(range(len(there)), [f"{point.at['rate']:g}/s" for point in there])
    axes.set_xlabel("share of a job's time (upper bar ours, lower published)")
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=3)


def _draw_around(figure: Figure, rows: list[Row]) -> None:
    axes: Any = figure.subplots()
    for row, variant in enumerate(AROUND):
        point = points(rows, sweep="around", variant=variant)[0]
        low, high = point.spread("mean_s_per_token")
        mean = point.mean("mean_s_per_token")
        face = BLUE if point.status == "ok" else "white"
        axes.errorbar(
            [mean],
            [row],
            xerr=[[mean - low], [high - mean]],
            color=BLUE,
            marker="o",
            markerfacecolor=face,
            markersize=4,
        )
    axes.set_yticks(range(len(AROUND)), list(AROUND))
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    figure.supxlabel("mean s per output token (open: saturated or stopped)", fontsize=8)
    axes.invert_yaxis()


if __name__ == "__main__":
    sys.exit(main("kv_policies"))
