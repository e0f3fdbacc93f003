"""python -m experiments.agents --scale smoke
python -m experiments.agents --trace FOLDER --latency roofline:llama-3-8b/a100-80g --kv-tokens 200000

Claim (ours, and that of the papers on scheduling agents): a server of agents thrashes. A turn repeats the whole
context of the turn before, so an agent is cheap as long as its context stays in the KV pool between its turns, and
once the contexts of the agents at work outgrow the pool, every order that never holds a program back makes each turn
evict what the next one needs. Holding whole programs back (`working-set`, `thunder`, `concur`) keeps the throughput.

The thrash curve: N agents at once in closed loop (a turn comes when the last one is answered and its think time is
over; when a program has ended the next begins), per policy: programs an hour, program time, time to first token (of
first turns apart), the longest hold, hit rate. Beside it what an unlimited cache would find, and what Belady's would on
the same schedule. Then, with most agents: host memory of 0, 0.7, 1.4 and 3 times their contexts; other think times,
pools and models; the bound on a hold and its price; clients that give up. The recorded agents take part where they are
here (FASTSERVE_TRACES names the folder). With --trace: the curve of your own agents on your own pool.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments._lib.agent_figures import over, pool_over_time, thrash_curve
from experiments._lib.agents import POLICIES, TRACES, absent, agents_of, mean_context, measured, path_of
from experiments._lib.case import At, Case, Numbers, Point, Row, Workload, point, points, program_ratio, ratio
from experiments._lib.claim import Claim
from experiments._lib.own_agents import add_options, curve_of
from experiments._lib.sweep import main
from fastserve.policies.spec import PolicySpec
from sim.settings import Settings

__all__ = ["SCALES", "USES", "absent", "add_options", "cases", "claims", "plot", "run", "special"]

USES = ("agents.py", "best_cache.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 1
    """seed 0 is the trace as it stands; others draw as many of its programs, with replacement"""
    traces: tuple[tuple[str, int], ...] = (("agents-like", 2), ("recorded", 1))
    """and how often each program is there: with most agents at once there must be many more of them"""
    agents: tuple[int, ...] = (4, 8, 12, 24)
    """at once"""
    policies: tuple[str, ...] = tuple(POLICIES)
    think_cap: float = 30.0
    """s; longer think times are cut"""
    stores: tuple[float, ...] = (0.0, 0.7, 1.4, 3.0)
    """host memory for prefixes, in contexts of all agents at work (the longest of each program, in the mean)"""
    caps: tuple[float, ...] = (300.0, 0.0)
    """other think times, s, with most agents; 0: none is cut"""
    pools: tuple[int, ...] = (49_152, 131_072, 262_144)
    """tokens, for agents-like, at half of the most agents"""
    machines: tuple[str, ...] = ("roofline:llama-3-70b/4xa100-80g", "roofline:llama-3-8b-mla/a100-80g")
    """for recorded, with most agents"""
    bounds: tuple[float, ...] = (0.0, 120.0, 300.0, 600.0, 1200.0)
    """s that working-set holds a turn back at most; 0: no bound"""
    timeouts: tuple[float, ...] = (600.0, 1800.0)
    """s without a first token after which clients give up"""
    axes: tuple[str, ...] = ("fcfs", "lpm", "thunder", "working-set")
    """policies on all axes but the first"""


SCALES = {
    "smoke": Scale(
        traces=(("agents-like", 1),), agents=(4, 8, 12), policies=("fcfs", "sj-mlfq", "lpm", "thunder", "working-set"),
        stores=(1.4,), caps=(), pools=(), bounds=(120.0,), timeouts=(), axes=("fcfs", "working-set"),
    ),
    "small": Scale(),
    "paper": Scale(seeds=5, agents=(2, 4, 6, 8, 12, 16, 24)),
}  # fmt: skip


def cases(scale: Scale) -> list[Case]:
    found: list[Case] = []
    for name, copies in scale.traces:
        if absent({"trace": name}):
            continue
        workload = agents_of(path_of(name), copies)
        base = Settings(latency=TRACES[name][1], think_cap=scale.think_cap)
        for seed in range(scale.seeds):
            for agents in scale.agents:
                at: At = {"part": "curve", "trace": name, "agents": agents}
                found += [
                    _case(at, workload, base.with_(sessions=agents), label, seed)
                    for label in scale.policies
                ]  # fmt: skip
            for at, settings, labels in _axes(scale, name, base, mean_context(workload)):
                found += [_case(at, workload, settings, label, seed) for label in labels]
            for bound in scale.bounds:
                for agents in scale.agents[-2:]:
                    at = {"part": "bound", "trace": name, "agents": agents, "max_wait": bound, "policy": "working-set"}
                    spec = PolicySpec("working-set", {"max_wait": bound})
                    case = Case(at=at, workload=workload, settings=base.with_(sessions=agents), policy=spec, seed=seed)
                    found.append(case)
    return found


def _axes(scale: Scale, name: str, base: Settings, context: float) -> list[tuple[At, Settings, tuple[str, ...]]]:
    """Coordinates, settings and policies of all axes but that of agents."""
    most, half = scale.agents[-1], scale.agents[-1] // 2
    full = base.with_(sessions=most)
    found: list[tuple[At, Settings, tuple[str, ...]]] = []
    for store in scale.stores:
        at: At = {"part": "store", "trace": name, "agents": most, "store": store}
        found.append((at, full.with_(host_prefix_tokens=round(store * most * context)), scale.axes))
    for cap in scale.caps:
        at = {"part": "think", "trace": name, "agents": most, "think_cap": cap}
        found.append((at, full.with_(think_cap=cap or None), scale.axes))
    for pool in scale.pools if name == "agents-like" else ():
        at = {"part": "pool", "trace": name, "agents": half, "pool": pool}
        found.append((at, base.with_(sessions=half, kv_tokens=pool), scale.axes))
    for machine in scale.machines if name == "recorded" else ():
        at = {"part": "machine", "trace": name, "agents": most, "machine": machine}
        found.append((at, full.with_(latency=machine), scale.axes))
    for timeout in scale.timeouts:
        at = {"part": "timeout", "trace": name, "agents": most, "timeout": timeout}
        found.append((at, full.with_(client_timeout=timeout), scale.axes))
    return found


def _case(at: At, workload: Workload, settings: Settings, label: str, seed: int) -> Case:
    return Case(at=at | {"policy": label}, workload=workload, settings=settings, policy=POLICIES[label], seed=seed)


def run(case: Case) -> Numbers:
    return measured(case, over_time=case.at["part"] == "curve")


def claims(rows: list[Row]) -> list[Claim]:
    found: list[Claim] = []
    for name in dict.fromkeys(str(row.at["trace"]) for row in rows):
        mine = [row for row in rows if row.at["trace"] == name]
        curves = [row for row in mine if row.at["part"] == "curve"]
        most = max(int(row.at["agents"]) for row in curves)
        for label in dict.fromkeys(str(row.at["policy"]) for row in curves):
            found.append(_kept(name, points(curves, policy=label)))
            if label != "fcfs":
                found.append(_gained(name, curves, f"{most} agents", label, agents=most))
        for part, axis in (("store", "store"), ("think", "think_cap"), ("pool", "pool"), ("machine", "machine")):
            there = [row for row in mine if row.at["part"] == part]
            for at in dict.fromkeys((int(row.at["agents"]), row.at[axis]) for row in there):
                where = {"agents": at[0], axis: at[1]}
                words = f"{at[0]} agents, {axis.replace('_', ' ')} {at[1]}"
                labels = [str(one.at["policy"]) for one in points(there, **where) if one.at["policy"] != "fcfs"]
                found += [_gained(name, there, words, label, **where) for label in labels]
        found += _prices(name, mine) + _stores(name, mine) + _given_up(name, mine)
    return found


def _said(one: Point) -> str:
    return (
        f"{one.mean('programs_per_hour'):.3g} programs an hour, hit rate {one.mean('hit_rate'):.2f}, longest wait "
        f"{one.mean('max_ttft_s'):.0f} s"
    )


def _gained(name: str, rows: list[Row], where: str, label: str, **at: Any) -> Claim:
    base, mine = point(rows, policy="fcfs", **at), point(rows, policy=label, **at)
    note = f"{_said(mine)}; fcfs {_said(base)}"
    return Claim(f"agents, {name}", f"{where}: program time, fcfs over {label}", program_ratio(base, mine), note=note)


def _kept(name: str, curve: list[Point]) -> Claim:
    """How much of its best throughput is left with most agents."""
    best = max(curve, key=lambda one: one.mean("programs_per_hour"))
    last = curve[-1]
    text = f"{last.at['policy']}: programs an hour with {last.at['agents']} agents over those with {best.at['agents']}"
    return Claim(f"agents, {name}", f"{text}, its best", ratio(last, best, "programs_per_hour"), note=_said(last))


def _prices(name: str, rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows, part="bound"):
        if mine.at["max_wait"]:
            free = points(rows, part="bound", agents=mine.at["agents"], max_wait=0.0)
            if free:
                text = (
                    f"{mine.at['agents']} agents: program time of working-set, no bound over {mine.at['max_wait']:g} s"
                )
                found.append(Claim(f"agents, {name}", text, program_ratio(free[0], mine), note=_said(mine)))
    return found


def _stores(name: str, rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows, part="store"):
        without = points(rows, part="store", policy=mine.at["policy"], store=0.0)
        if mine.at["store"] and without:
            text = f"{mine.at['agents']} agents, {mine.at['policy']}: program time, no store over {mine.at['store']:g}"
            found.append(Claim(f"agents, {name}", text, program_ratio(without[0], mine), note=_said(mine)))
    return found


def _given_up(name: str, rows: list[Row]) -> list[Claim]:
    found = []
    for mine in points(rows, part="timeout"):
        base = point(rows, part="timeout", timeout=mine.at["timeout"], policy="fcfs")
        if mine.at["policy"] != "fcfs":
            who = f"{mine.at['agents']} agents whose clients wait {mine.at['timeout']:g} s"
            text = f"{who}: completed programs an hour, {mine.at['policy']} over fcfs"
            lost = f"{mine.mean('programs_abandoned'):.0f} abandoned, {base.mean('programs_abandoned'):.0f} under fcfs"
            gain = ratio(mine, base, "programs_per_hour_whole")
            found.append(Claim(f"agents, {name}", text, gain, note=lost))
    return found


TITLES = {
    "store": ("store", "host memory for prefixes, in contexts of all agents at work"),
    "pool": ("pool", "KV pool (tokens)"),
    "bound": ("max_wait", "longest hold that working-set aims at (s; 0: no bound)"),
}


def plot(rows: list[Row], folder: Path) -> None:
    for name in dict.fromkeys(str(row.at["trace"]) for row in rows):
        mine = [row for row in rows if row.at["trace"] == name]
        curves = [row for row in mine if row.at["part"] == "curve"]
        thrash_curve(folder, f"thrash_{name}", curves)
        pool_over_time(folder, f"pool_{name}", curves, ("fcfs", "thunder", "working-set"))
        most = max(int(row.at["agents"]) for row in curves)
        for part, (axis, title) in TITLES.items():
            there = [row for row in mine if row.at["part"] == part]
            there = [row for row in there if row.at["agents"] == most] if part == "bound" else there
            if len({row.at[axis] for row in there}) > 1:
                over(folder, f"{part}_{name}", there, axis, title)


def special(args: argparse.Namespace) -> bool:
    """With --trace: the curve of the user's own agents."""
    return curve_of(args)


if __name__ == "__main__":
    sys.exit(main("agents"))
