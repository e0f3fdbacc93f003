"""python -m experiments.fairness_tail --scale small

Question: what do long jobs pay for the short ones' gain, and does anybody starve?

Jobs are put into four classes of equal size by their true service alone (the time on an empty machine). Per class:
the mean slowdown (JCT over the time alone). Over all: the longest wait, which is the longest gap between two tokens
or before the first, and the largest slowdown. OPT-13B fit, batch cap 16, chunked prefill, visit guard on, Gamma
arrivals of CV 2.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.case import At, Case, Numbers, Row, Workload, points, replayed
from experiments._lib.claim import Claim, compared
from experiments._lib.figure import PAGE, draw, legend, look_of, plain_log
from experiments._lib.sweep import main
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICIES = {
    "fcfs": PolicySpec("fcfs"),
    "mlfq": PolicySpec("mlfq"),
    "sj-mlfq": PolicySpec("sj-mlfq"),
    "sj-mlfq, no ageing": PolicySpec("sj-mlfq", {"alpha": 0.0}),
    "las": PolicySpec("las", {"quantum": 1.0}),
    "fixed-priority": PolicySpec("fixed-priority"),
    "srpt (oracle)": PolicySpec("srpt"),
}
CLASSES = ("shortest", "short", "long", "longest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 10
    """ten, because these are tails; with common random numbers across policies"""
    requests: int = 800
    """of a run"""
    lengths: tuple[str, ...] = ("sharegpt", "azure-conv-2023")
    """profiles of lengths"""
    loads: tuple[float, ...] = (0.8, 0.95)
    """in units of what fcfs sustains"""
    backlog: int = 400
    """live jobs at which a run is stopped"""


SCALES = {
    "smoke": Scale(seeds=2, requests=150, lengths=("sharegpt",), loads=(0.95,)),
    "small": Scale(),
    "paper": Scale(seeds=20, requests=10_000, loads=(0.6, 0.8, 0.9, 0.95), backlog=2000),
}


def cases(scale: Scale) -> list[Case]:
    found = []
    for lengths in scale.lengths:
        workload = Workload(requests=scale.requests, arrivals="gamma:cv=2", lengths=f"profile:{lengths}")
        for load in scale.loads:
            settings = Settings(max_batch=16, load=load, max_backlog=scale.backlog)
            for seed in range(scale.seeds):
                for label, policy in POLICIES.items():
                    at: At = {"lengths": lengths, "load": load, "policy": label}
                    found.append(
                        Case(at=at, workload=workload, settings=settings, policy=policy, seed=seed, warmup=0.1)
                    )
    return found


def run(case: Case) -> Numbers:
    """The summary, with slowdowns by class and the waits."""
    done = replayed(case)
    records = done.records
    measured = np.isfinite(records["slowdown"]) & (np.arange(len(records["id"])) >= case.warmup * len(records["id"]))
    slowdown, alone = records["slowdown"][measured], records["alone"][measured]
    edges = np.quantile(alone, (0.25, 0.5, 0.75))
    numbers: Numbers = dict(done.summary)
    for number, name in enumerate(CLASSES):
        mine = slowdown[np.searchsorted(edges, alone, side="right") == number]
        numbers[f"slowdown_{name}"] = float(mine.mean()) if len(mine) else None
    waits = np.fmax(records["ttft"], records["largest_gap"])[measured]
    numbers["longest_wait_s"], numbers["p99_wait_s"] = float(np.nanmax(waits)), float(np.nanpercentile(waits, 99))
    numbers["load"] = case.settings.load
    return numbers


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for base in points(rows, policy="fcfs"):
        where = {name: base.at[name] for name in ("lengths", "load")}
        for label in ("sj-mlfq", "sj-mlfq, no ageing", "srpt (oracle)"):
            mine = points(rows, policy=label, **where)[0]
            for measure, name in (
                ("slowdown_shortest", "mean slowdown of the shortest quarter"),
                ("slowdown_longest", "mean slowdown of the longest quarter"),
                ("max_slowdown", "largest slowdown"),
                ("longest_wait_s", "longest wait for a token"),
            ):
                text = f"{where['lengths']} at load {where['load']:g}: {name}, fcfs over {label}"
                gain, mark = compared(base, mine, measure)
                found.append(Claim("fairness", text, gain, note=mark))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    def fill(figure: Figure) -> None:
        panels = list(dict.fromkeys((row.at["lengths"], row.at["load"]) for row in rows))
        grid: Any = figure.subplots(1, len(panels) + 1, squeeze=False)
        for axes, (lengths, load) in zip(grid[0], panels, strict=False):
            for label in POLICIES:
                point = points(rows, policy=label, lengths=lengths, load=load)[0]
                style = look_of(label.replace(",", ""))
                dash = ":" if "no ageing" in label else style.dash
                means = [point.mean(f"slowdown_{name}") for name in CLASSES]
                axes.plot(range(4), means, color=style.colour, marker=style.marker, linestyle=dash, label=label)
            axes.set_xticks(range(4), CLASSES, rotation=40, ha="right")
            axes.set_yscale("log")
            plain_log(axes.yaxis)
            axes.set_title(f"{lengths}\nload {load:g}")
        grid[0][0].set_ylabel("mean slowdown of the quarter")
        last = grid[0][-1]
        lengths, load = panels[-1]
        for row, label in enumerate(POLICIES):
            point = points(rows, policy=label, lengths=lengths, load=load)[0]
            colour = look_of(label.replace(",", "")).colour
            if "no ageing" in label:
                last.barh(row, point.mean("longest_wait_s"), color="white", edgecolor=colour, hatch="///")
            else:
                last.barh(row, point.mean("longest_wait_s"), color=colour)
        last.set_yticks([])
        last.invert_yaxis()
        last.set_xlabel("longest wait for\na token (s)")
        last.set_title(f"of these, at\nload {load:g}")
        legend(figure, grid[0][0], 4)

    draw(folder, "fairness_tail", (PAGE, 2.8), fill)


if __name__ == "__main__":
    sys.exit(main("fairness_tail"))
