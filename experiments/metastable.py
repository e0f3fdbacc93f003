"""python -m experiments.metastable --scale small

Claim (ours): time slicing under a bounded KV pool is metastable. Once a burst has made more jobs live than the pool
holds, ageing makes all of them urgent in turn, the machine is busy moving or recomputing KV, falls further behind,
and does not come back at a load that fcfs sustains. A visit that must be worth its return (the visit guard, visit=64)
brings it back at moderate loads; at high ones it slows the growth, and the backlog stands until the arrivals end.

Azure-conversation-like lengths, OPT-13B fit, batch cap 16; a burst of an eighth of the requests arrives at three
times the rate in the middle of the run. A run with more live jobs than a stated bound is stopped, its jobs censored,
and marked as collapsed: its mean is a lower bound.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.case import Case, Numbers, Row, Workload, points
from experiments._lib.claim import Claim, compared
from experiments._lib.figure import PAGE, draw, plain_log
from experiments._lib.sweep import main
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace
from sim.report.style import BLUE, GREEN, ORANGE, SKY, VERMILION, YELLOW
from sim.run import run_one
from sim.settings import UNLIMITED, Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESET = 66_144  # tokens: the pool of the OPT-13B preset on an 80G card


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers across all variants"""
    requests: int = 1500
    """of a run, the burst included"""
    loads: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9)
    """of the arrivals around the burst, in units of what fcfs sustains with the same pool"""
    pools: tuple[int | str, ...] = (PRESET // 2, PRESET, PRESET * 2, UNLIMITED)
    """device KV tokens"""
    residencies: tuple[str, ...] = ("recompute", "proactive")
    """where preempted KV goes: forgotten, or swapped to the host"""
    alphas: tuple[float, ...] = (0.0, 0.3, 3.0, 30.0)
    """s of waiting after which a job becomes urgent; 0 never"""
    visits: tuple[int, ...] = (0, 64)
    """visit guard: off and on"""
    backlog: int = 300
    """live jobs at which a run is stopped as collapsed"""


SCALES = {
    "smoke": Scale(seeds=2, requests=300, loads=(0.8,), pools=(PRESET // 2,), alphas=(0.0, 0.3), backlog=100),
    "small": Scale(
        requests=800,
        loads=(0.6, 0.8, 0.9),
        pools=(PRESET // 2, PRESET, UNLIMITED),
        alphas=(0.0, 0.3, 3.0),
        backlog=150,
    ),
    "paper": Scale(seeds=10, requests=10_000, loads=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95), backlog=1000),
}

BURST_SHARE, BURST_FACTOR = 0.125, 3.0
LIVE_STEPS = 80  # samples of the number of live jobs between the first arrival and the last


def cases(scale: Scale) -> list[Case]:
    found = []
    workload = Workload(requests=scale.requests, lengths="profile:azure-conv-2023")
    for residency in scale.residencies:
        for pool in scale.pools:
            for load in scale.loads:
                settings = Settings(
                    max_batch=16,
                    batching="mixed",
                    residency=residency,
                    kv_tokens=pool,
                    load=load,
                    max_backlog=scale.backlog,
                )
                where = {"residency": residency, "pool": pool, "load": load}
                for seed in range(scale.seeds):
                    base = Case(
                        at=where | {"policy": "fcfs", "alpha": 0.0, "visit": 0},
                        workload=workload,
                        settings=settings.with_(visit=0),
                        seed=seed,
                    )
                    found.append(base)
                    for alpha in scale.alphas:
                        for visit in scale.visits:
                            at = where | {"policy": "sj-mlfq", "alpha": alpha, "visit": visit}
                            policy = PolicySpec("sj-mlfq", {"alpha": alpha})
                            found.append(replace(base, at=at, settings=settings.with_(visit=visit), policy=policy))
    return found


def run(case: Case) -> Numbers:
    """A run with a burst in its middle. recovered_s: from its end until no more jobs live than at its start.

    live: jobs in the system every live_step_s seconds, until what was left has ended or the run was stopped.
    """
    rate = case.rate
    trace, begin, end = bursty(case.workload.trace(rate, case.seed))
    settings = case.settings.with_(rate=None, load=None)
    done = run_one(trace, case.policy, settings, case.seed)
    numbers: Numbers = dict(done.summary)
    numbers |= {"rate": rate, "load": case.settings.load, "recovered_s": recovered(done.records, begin, end)}
    step = float(trace.arrival[-1]) / 1e9 / LIVE_STEPS
    numbers |= {"begin_s": begin, "end_s": end, "live_step_s": step, "live": live(done.records, step)}
    return numbers


def bursty(trace: Trace) -> tuple[Trace, float, float]:
    """The trace with an eighth of its gaps, in the middle, divided by three; when that burst begins and ends, in s."""
    n = len(trace)
    first, last = round(n * (0.5 - BURST_SHARE / 2)), round(n * (0.5 + BURST_SHARE / 2))
    gaps = np.diff(trace.arrival, prepend=0)
    gaps[first:last] = gaps[first:last] // BURST_FACTOR
    arrival = np.cumsum(gaps)
    return replace(trace, arrival=arrival), float(arrival[first]) / 1e9, float(arrival[last - 1]) / 1e9


def recovered(records: Any, begin: float, end: float) -> float | None:
    """Seconds after the burst until as few jobs live as when it began, or fewer than a batch; None: never."""
    arrival = records["arrival"]
    left = np.where(np.isnan(records["end"]), np.inf, records["end"])
    live = np.count_nonzero((arrival < begin) & (left >= begin))
    moments = np.sort(left[(left > end) & (left <= arrival.max())])
    counts = np.array([np.count_nonzero((arrival <= t) & (left > t)) for t in moments])
    calm = moments[counts <= max(live, 16)]
    return float(calm[0] - end) if len(calm) else None


def live(records: Any, step: float) -> list[int]:
    """How many jobs are in the system at 0, step, 2 step, ... s; of a run that was stopped: up to its last arrival."""
    arrival = np.sort(records["arrival"])
    ends = np.sort(records["end"][~np.isnan(records["end"])])
    last = float(ends[-1]) if len(ends) == len(arrival) else float(arrival[-1])
    moments = np.arange(0, last + step, step)
    counts = np.searchsorted(arrival, moments, side="right") - np.searchsorted(ends, moments, side="right")
    return [int(count) for count in counts]


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    text = "runs of sj-mlfq with a bounded pool that collapse, at loads that fcfs sustains"
    for alpha in sorted({float(row.at["alpha"]) for row in rows if row.at["policy"] == "sj-mlfq"}):
        for visit in (0, 64):
            for residency in ("recompute", "proactive"):
                there = points(rows, policy="sj-mlfq", alpha=alpha, visit=visit, residency=residency)
                mine = [row for point in there if point.at["pool"] != UNLIMITED for row in point.rows]
                count = sum(bool(row.numbers["collapsed"]) for row in mine)
                note = f"{count} of {len(mine)}"
                found.append(
                    Claim("metastable", f"{text}: alpha {alpha:g} s, visit {visit}, {residency}", None, note=note)
                )
    smallest = min(int(row.at["pool"]) for row in rows if row.at["pool"] != UNLIMITED)
    for point in points(rows, policy="sj-mlfq", alpha=0.3, visit=64, pool=smallest):
        where = {name: point.at[name] for name in ("residency", "pool", "load")}
        base = points(rows, policy="fcfs", **where)[0]
        said = ", ".join(f"{name} {value}" for name, value in where.items())
        for measure, name in (("mean_jct_s", "mean JCT"), ("mean_ttft_s", "mean TTFT")):
            text = f"with the guard: {name}, fcfs over sj-mlfq, {said}"
            gain, mark = compared(base, point, measure)
            found.append(Claim("metastable", text, gain, note=mark))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    draw(folder, "metastable", (PAGE, 3.6), lambda figure: _draw_grid(figure, rows))


COLOURS = (BLUE, VERMILION, ORANGE, GREEN, SKY, YELLOW)


def _draw_grid(figure: Figure, rows: list[Row]) -> None:
    residencies = list(dict.fromkeys(str(row.at["residency"]) for row in rows))
    pools = list(dict.fromkeys(row.at["pool"] for row in rows))
    grid: Any = figure.subplots(len(residencies), len(pools), squeeze=False, sharey=True, sharex=True)
    for line, residency in zip(grid, residencies, strict=True):
        for axes, pool in zip(line, pools, strict=True):
            _draw_cell(axes, rows, residency, pool)
            axes.set_title(f"{residency}, {pool if pool == UNLIMITED else f'{int(pool):,}'} tokens")
        line[0].set_ylabel("mean JCT (s)")
    figure.supxlabel(
        "load around the burst (1 = what fcfs sustains); x at the top: collapsed in every seed, open: in some",
        fontsize=8,
    )
    first: Axes = grid[0][0]
    first.set_ylim(top=first.get_ylim()[1] * 2)  # room for the crosses
    for axes in grid.flat:
        plain_log(axes.yaxis)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, columnspacing=1.0)


def _draw_cell(axes: Axes, rows: list[Row], residency: str, pool: str | int | float) -> None:
    alphas = sorted({float(row.at["alpha"]) for row in rows if row.at["policy"] == "sj-mlfq"})
    series = [("fcfs", 0.0, 0, "#000000")]
    series += [
        ("sj-mlfq", alpha, visit, colour) for alpha, colour in zip(alphas, COLOURS, strict=False) for visit in (0, 64)
    ]
    for policy, alpha, visit, colour in series:
        mine = points(rows, residency=residency, pool=pool, policy=policy, alpha=alpha, visit=visit)
        loads = [float(point.at["load"]) for point in mine]
        means = [point.mean("mean_jct_s") for point in mine]
        label = policy if policy == "fcfs" else f"alpha {alpha:g} s, visit {visit}"
        shares = [point.mean("collapsed") for point in mine]
        # The mean of a run that was stopped says when, not how bad: it would look better than one that went on.
        shown = [float("nan") if share == 1 else mean for share, mean in zip(shares, means, strict=True)]
        axes.plot(loads, shown, color=colour, linestyle="-" if visit == 0 else "--", label=label)
        for load, mean, share in zip(loads, shown, shares, strict=True):
            face = colour if share == 0 else "white"
            axes.plot([load], [mean], marker="o", color=colour, markerfacecolor=face, linestyle="none")
        gone = [load for load, share in zip(loads, shares, strict=True) if share == 1]
        height = 0.97 - 0.045 * series.index((policy, alpha, visit, colour))
        axes.plot(gone, [height] * len(gone), "x", color=colour, transform=axes.get_xaxis_transform())
    axes.set_xlim(min(float(row.at["load"]) for row in rows) - 0.05, max(float(row.at["load"]) for row in rows) + 0.05)
    axes.set_yscale("log")


if __name__ == "__main__":
    sys.exit(main("metastable"))
