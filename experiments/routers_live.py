"""python -m experiments.routers_live --scale small

Claim (ours): what the simulator says of a router holds for the gateway. Real servers, whose times are a modelled
machine's and pass for real (the scripted backend), stand behind the gateway; the same requests are sent over HTTP under
each router, and simulated on as many replicas behind the very router object. Interleaved: the routers take turns within
each seed. What the simulation leaves out is what is measured: HTTP, processes, views that are asked for. The gateway
routes a few requests before the first, to warm up, so `random` draws otherwise than simulated.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments._lib.case import Case, Numbers, Point, Row, Workload, point, points, ratio, replayed
from experiments._lib.claim import Claim, shown
from experiments._lib.figure import COLUMN, draw
from experiments._lib.live import here
from experiments._lib.served_cluster import sent_through, servers
from experiments._lib.sweep import main
from fastserve.metrics.summary import Columns, summarise
from fastserve.routers.spec import RouterSpec
from sim.report.style import looks_of
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SCALES", "cases", "claims", "plot", "run"]

SOURCES = ("fastserve/gateway", "fastserve/routers", "fastserve/engine", "fastserve/sched", "fastserve/server",
           "sim/cluster")  # fmt: skip
BASE = "round-robin"
ROUTERS = ("random", BASE, "least-connections", "least-tokens")
MEASURES = {"mean_jct_s": "mean JCT", "p99_jct_s": "P99 JCT", "mean_ttft_s": "mean TTFT", "p99_ttft_s": "P99 TTFT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    requests: int = 160
    replicas: int = 4
    pairs: int = 4
    routers: tuple[str, ...] = ROUTERS
    load: float = 0.9
    max_batch: int = 8
    latency: str = "opt-13b-a100"
    view_interval: float = 0.5
    lengths: str = "profile:sharegpt"


SCALES = {
    "smoke": Scale(requests=24, replicas=2, pairs=1, routers=(BASE, "least-tokens"), max_batch=4),
    "small": Scale(),
    "paper": Scale(requests=1500, pairs=8),
}


def cases(scale: Scale) -> list[Case]:
    workload = Workload(requests=scale.requests, lengths=scale.lengths)
    return [
        Case(
            at={"router": name},
            workload=workload,
            settings=Settings(
                latency=scale.latency, max_batch=scale.max_batch, load=scale.load, replicas=scale.replicas,
                router=RouterSpec(name), predictor="none", view_delay=scale.view_interval / 2,
            ),
            seed=seed,
            options={"view_interval": scale.view_interval, "place": here(sources=SOURCES, packages=())},
        )
        for seed in range(scale.pairs)
        for name in scale.routers
    ]  # fmt: skip


def run(case: Case) -> Numbers:
    settings = case.settings
    rate = case.rate
    simulated = replayed(case, rate)
    trace = case.workload.trace(rate, case.seed)
    with servers(settings.replicas, settings.latency, settings.max_batch) as urls:
        live, notes = sent_through(urls, settings.router_spec, case.options["view_interval"], trace, case.seed)
    found: Numbers = {"lag_p99_ms": notes["dispatch_lag_p99_ms"], "late": notes["late"], "rate": rate}
    return found | _measured("sim", simulated.records) | _measured("live", live)


def _measured(name: str, records: Columns) -> Numbers:
    summary = summarise(records, horizon_s=float(np.nanmax(records["end"])))
    return {f"{name}_{measure}": summary[measure] for measure in MEASURES}


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows):
        name = str(mine.at["router"])
        for measure, said in MEASURES.items():
            off = ratio(_as(mine, measure, "sim"), _as(mine, measure, "live"), measure)
            note = f"{len(mine.rows)} runs; client's p99 lag {mine.mean('lag_p99_ms'):.1f} ms"
            found.append(Claim("routers, live", f"{name}: {said} simulated over live", off, note=note))
    base = point(rows, router=BASE)
    for mine in points(rows):
        if mine.at["router"] == BASE:
            continue
        for measure, said in MEASURES.items():
            live = ratio(_as(base, measure, "live"), _as(mine, measure, "live"), measure)
            told = ratio(_as(base, measure, "sim"), _as(mine, measure, "sim"), measure)
            note = "" if told is None else f"predicted {shown(told)}"
            found.append(Claim("routers, live", f"{said}, {BASE} over {mine.at['router']}, live", live, note=note))
    return found


def _as(one: Point, measure: str, of: str) -> Point:
    """Its live or simulated value under the plain name of the measure."""
    rows = tuple(Row(row.at, row.seed, {measure: row.numbers[f"{of}_{measure}"]}) for row in one.rows)
    return Point(one.at, rows)


def plot(rows: list[Row], folder: Path) -> None:
    """Each run live, and hollow beside it as predicted."""
    names = [str(one.at["router"]) for one in points(rows)]
    looks = looks_of({name: name for name in names})

    def fill(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True)
        for axes, measure in zip(panels, ("mean_jct_s", "p99_ttft_s"), strict=True):
            for place, name in enumerate(names):
                style = looks[name]
                for of, face, shift in (("live", style.colour, -0.12), ("sim", "white", 0.12)):
                    values = point(rows, router=name).values(f"{of}_{measure}")
                    axes.plot([place + shift] * len(values), values, marker=style.marker, color=style.colour,
                              markerfacecolor=face, linestyle="none")  # fmt: skip
            axes.set_ylim(bottom=0)
            axes.set_ylabel(f"{MEASURES[measure]} (s)")
        panels[1].set_xticks(range(len(names)), [name.replace("-", "-\n") for name in names])

    draw(folder, "routers_live", (COLUMN, 3.6), fill)


if __name__ == "__main__":
    sys.exit(main("routers_live"))
