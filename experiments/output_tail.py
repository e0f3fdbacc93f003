"""python -m experiments.output_tail --scale small

Claim: the tail of the outputs decides what skip-join MLFQ gains over first come, first served.

The workloads of `live_headline`, simulated: the prompts are the same everywhere, the outputs are lognormal with a
median of 20 tokens (mu 3.0) up to 1024, and sigma goes from nearly equal outputs to a few that hold most of the tokens;
beside them the outputs that run live: (a), which is sigma 1.6, (b) and (c). OPT-13B fit, batch cap 8, a load in units
of what fcfs sustains. What is gained also grows with the length of a run, since near the capacity a queue takes its
time to form: (a) is there with fewer and more requests too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.case import At, Case, Point, Row, Workload, point, points, ratio
from experiments._lib.claim import Claim, ends, gained
from experiments._lib.figure import PAGE, draw, legend, look_of
from experiments._lib.sweep import main
from experiments.live_headline import OUTPUTS, POLICIES, PROMPT
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = (("mean_jct_s", "mean JCT"), ("p95_jct_s", "P95 JCT"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """with common random numbers across policies"""
    requests: int = 800
    """of a run, measured to the end of the drain, as in the live runs"""
    others: tuple[int, ...] = (200, 400, 1600, 3200)
    """requests of more runs of (a), which is there at its sigma"""
    sigmas: tuple[float, ...] = (0.6, 0.9, 1.1, 1.4, 1.6, 1.8, 2.0, 2.2)
    loads: tuple[float, ...] = (0.8, 0.95, 1.2)
    cap: int = 8
    policies: tuple[str, ...] = tuple(POLICIES)
    named: tuple[str, ...] = ("b", "c")


SCALES = {
    "smoke": Scale(
        seeds=2,
        requests=100,
        others=(200,),
        sigmas=(0.6, 1.6),
        loads=(0.95,),
        policies=("fcfs", "sj-mlfq", "srpt"),
        named=("c",),
    ),
    "small": Scale(),
    "paper": Scale(seeds=10, requests=6400, others=(400, 1600, 25_600)),
}


def cases(scale: Scale) -> list[Case]:
    runs = [(f"lognormal:3.0,{sigma:g},1,1024", scale.requests) for sigma in scale.sigmas]
    runs += [(OUTPUTS["a"], requests) for requests in scale.others]
    runs += [(OUTPUTS[name], scale.requests) for name in scale.named]
    found = []
    for output, requests in runs:
        sigma = float(output.split(",")[1])
        name = next((f"({name})" for name, known in OUTPUTS.items() if known == output), f"sigma {sigma:g}")
        workload = Workload(requests=requests, lengths="", prompt=PROMPT, output=output)
        for load in scale.loads:
            settings = Settings(max_batch=scale.cap, load=load)
            for label in scale.policies:
                at: At = {"outputs": name, "sigma": sigma, "requests": requests, "load": load, "policy": label}
                found += [
                    Case(at=at, workload=workload, settings=settings, policy=POLICIES[label], seed=seed)
                    for seed in range(scale.seeds)
                ]
    return found


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows):
        if mine.at["policy"] == "fcfs" or mine.at["load"] == 0.8:
            continue
        where = f"outputs {mine.at['outputs']}, {mine.at['requests']} requests, load {mine.at['load']}"
        found.append(gained("tail of the outputs", where, point(rows, **(mine.at | {"policy": "fcfs"})), mine))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    swept = [
        row for row in rows if row.at["outputs"] not in ("(b)", "(c)") and row.at["requests"] == rows[0].at["requests"]
    ]
    draw(folder, "output_tail", (PAGE, 4.2), lambda figure: _draw_gains(figure, swept, "sigma", "sigma of the outputs"))
    mine = [row for row in rows if row.at["outputs"] == "(a)"]
    draw(folder, "run_length", (PAGE, 4.2), lambda figure: _draw_gains(figure, mine, "requests", "requests of a run"))


def _draw_gains(figure: Figure, rows: list[Row], x: str, label: str) -> None:
    """Gain over fcfs by x, a column a load."""
    loads = sorted({float(row.at["load"]) for row in rows})
    policies = [policy for policy in dict.fromkeys(str(row.at["policy"]) for row in rows) if policy != "fcfs"]
    grid: Any = figure.subplots(len(MEASURES), len(loads), squeeze=False, sharex=True, sharey="row")
    for line, (measure, name) in zip(grid, MEASURES, strict=True):
        for axes, load in zip(line, loads, strict=True):
            for policy in policies:
                _draw_curve(axes, points(rows, policy=policy, load=load), rows, measure, x)
            axes.axhline(1, color="#777777", linewidth=0.6)
            axes.set_title(f"load {load:g}")
            if x == "requests":
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter("{x:g}")
        line[0].set_ylim(bottom=0)
        line[0].set_ylabel(f"{name}, fcfs over policy")
    figure.supxlabel(label, fontsize=8)
    legend(figure, grid[0][0])


def _draw_curve(axes: Any, mine: list[Point], rows: list[Row], measure: str, x: str) -> None:
    there = []
    for one in mine:
        gain = ratio(point(rows, **(one.at | {"policy": "fcfs"})), one, measure)
        if gain is not None:
            there.append((float(one.at[x]), gain.mean, *ends(gain)))
    if there:
        style = look_of(str(mine[0].at["policy"]))
        at, means, lows, highs = zip(*sorted(there), strict=True)
        label = str(mine[0].at["policy"])
        axes.plot(at, means, color=style.colour, marker=style.marker, linestyle=style.dash, label=label)
        axes.fill_between(at, lows, highs, color=style.colour, alpha=0.15, linewidth=0)


if __name__ == "__main__":
    sys.exit(main("output_tail"))
