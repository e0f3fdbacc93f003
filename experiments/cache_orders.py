"""python -m experiments.cache_orders --scale small

Question: does skip-join MLFQ hurt prefix caching, where, and what cures it? A policy that takes turns lets more
requests be live at once, and what is live and what is idle share one pool: each turn may evict the prefix that the next
request would have found.

(a) Agents in closed loop, at once from as many as fit the KV pool to three times as many: skip-join MLFQ by request,
without ageing, with a whole pool for each visit, and what might cure it: levels by program (`plas`, `atlas`), the order
of programs (`program-fcfs`), the longest cached prefix first (`lpm`), and holding programs back (`working-set`).
(b) Chats in open loop, at a load that fcfs carries without a cache and at one that it does not: Mooncake's conversation
trace where it is here (FASTSERVE_TRACES names the folder), and synthetic conversations; each policy with the cache and
without, on the same arrivals.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.agents import TRACES, agents_of, path_of
from experiments._lib.case import (
    At,
    Case,
    Numbers,
    Row,
    Workload,
    point,
    points,
    program_ratio,
    ratio,
    recorded,
    simulate,
)
from experiments._lib.claim import Claim
from experiments._lib.figure import PAGE, curve, draw, legend
from experiments._lib.public import folder
from experiments._lib.sweep import main
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDERS = {
    "fcfs": PolicySpec("fcfs"),
    "mlfq": PolicySpec("mlfq"),
    "sj-mlfq": PolicySpec("sj-mlfq"),
    "sj-mlfq (no aging)": PolicySpec("sj-mlfq", {"alpha": 0.0}),
    "plas": PolicySpec("plas"),
    "atlas": PolicySpec("atlas"),
    "program-fcfs": PolicySpec("program-fcfs"),
    "lpm": PolicySpec("lpm"),
    "working-set": PolicySpec("working-set"),
}
"""of programs"""
CHATS = ("fcfs", "mlfq", "sj-mlfq", "sj-mlfq (no aging)", "lpm")
"""of requests that name no program"""
CACHES = {"off": 0, "on": 0, "and store": 8_000_000}
"""tokens of host memory for prefixes"""
MOONCAKE = ("mooncake/conversation_trace.first40min.jsonl", "roofline:llama-3-8b/h100")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    agents: tuple[int, ...] = (4, 6, 8, 12)
    """at once, of the bundled trace"""
    orders: tuple[str, ...] = tuple(ORDERS)
    requests: int = 2000
    """the first so many of Mooncake's; none: it is left out"""
    loads: tuple[float, ...] = (0.8, 1.2)
    """in units of what fcfs sustains without a cache"""


SCALES = {
    "smoke": Scale(agents=(8,), orders=("fcfs", "sj-mlfq", "plas"), requests=0),
    "small": Scale(),
    "paper": Scale(requests=8000, loads=(0.6, 0.8, 1.0, 1.2, 1.6)),
}


def absent(at: At) -> bool:
    """Whether a row's trace is not here."""
    return at["trace"] == "mooncake-conv" and not (folder() / MOONCAKE[0]).exists()


def cases(scale: Scale) -> list[Case]:
    latency = TRACES["agents-like"][1]
    workload = agents_of(path_of("agents-like"))
    found = [
        Case(
            at={"part": "agents", "trace": "agents-like", "agents": agents, "policy": label},
            workload=workload,
            settings=Settings(latency=latency, think_cap=30.0, sessions=agents),
            policy=ORDERS[label],
        )
        for agents in scale.agents
        for label in scale.orders
    ]
    if scale.requests and not absent({"trace": "mooncake-conv"}):
        chats = recorded(folder() / MOONCAKE[0], scale.requests)
        found += _chats("mooncake-conv", chats, Settings(latency=MOONCAKE[1]), scale.loads)
    return found


def _chats(name: str, workload: Workload, settings: Settings, loads: tuple[float, ...]) -> list[Case]:
    """Each with the cache and without, at the same rates."""
    plain = settings.with_(prefix_cache="off")
    sustained = workload.sustained_rate(plain)
    return [
        Case(
            at={"part": "chats", "trace": name, "load": load, "cache": cache, "policy": label},
            workload=workload,
            settings=plain.with_(
                rate=load * sustained, prefix_cache="off" if cache == "off" else "on", host_prefix_tokens=tokens
            ),
            policy=ORDERS[label],
        )
        for load in loads
        for cache, tokens in CACHES.items()
        for label in CHATS
    ]


def run(case: Case) -> Numbers:
    return simulate(case)


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    agents = [row for row in rows if row.at["part"] == "agents"]
    for count in dict.fromkeys(int(row.at["agents"]) for row in agents):
        base = point(agents, policy="fcfs", agents=count)
        for mine in points(agents, agents=count):
            if mine.at["policy"] != "fcfs":
                note = f"hit rate {mine.mean('hit_rate'):.3f}, fcfs {base.mean('hit_rate'):.3f}"
                text = f"{count} agents: program time, fcfs over {mine.at['policy']}"
                found.append(Claim("cache, agents-like", text, program_ratio(base, mine), note=note))
    chats = [row for row in rows if row.at["part"] == "chats"]
    for name, load in dict.fromkeys((str(row.at["trace"]), row.at["load"]) for row in chats):
        for label in CHATS:
            off = point(chats, trace=name, load=load, cache="off", policy=label)
            for cache in list(CACHES)[1:]:
                on = point(chats, trace=name, load=load, cache=cache, policy=label)
                note = f"hit rate {on.mean('hit_rate'):.3f}, of an unlimited cache {on.mean('hit_rate_unlimited'):.3f}"
                text = f"load {load:g}, {label}: mean JCT, cache off over {cache}"
                found.append(Claim(f"cache, {name}", text, ratio(off, on, "mean_jct_s"), note=note))
        for cache in CACHES:
            found += _gains(chats, name, load, cache)
    return found


def _gains(rows: list[Row], name: str, load: Any, cache: str) -> list[Claim]:
    base = point(rows, trace=name, load=load, cache=cache, policy="fcfs")
    return [
        Claim(
            f"cache, {name}",
            f"load {load:g}, cache {cache}: mean JCT, fcfs over {label}",
            ratio(base, point(rows, trace=name, load=load, cache=cache, policy=label), "mean_jct_s"),
        )
        for label in CHATS[1:]
    ]


def plot(rows: list[Row], folder: Path) -> None:
    agents = [row for row in rows if row.at["part"] == "agents"]

    def fill(figure: Figure) -> None:
        grid: Any = figure.subplots(1, 3, sharex=True)
        titles = {
            "hit_rate": "hit rate",
            "program_time_mean_s": "mean program time (s)",
            "p50_ttft_s": "median TTFT (s)",
        }
        for axes, (measure, title) in zip(grid, titles.items(), strict=True):
            for label in dict.fromkeys(str(row.at["policy"]) for row in agents):
                curve(axes, points(agents, policy=label), "agents", measure, label)
            axes.set_ylim(bottom=0)
            axes.set_title(title)
        figure.supxlabel("agents at once", fontsize=8)
        legend(figure, grid[0], 5)

    draw(folder, "cache_orders", (PAGE, 2.5), fill)


if __name__ == "__main__":
    sys.exit(main("cache_orders"))
