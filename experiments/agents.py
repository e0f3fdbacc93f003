"""python -m experiments.agents --scale smoke

Claim (ours, and that of the papers on scheduling agents): a server of agents thrashes. A turn repeats the whole
context of the turn before, so an agent is cheap as long as its context stays in the KV pool between its turns, and
once the contexts of the agents at work outgrow the pool, every order that never holds a program back makes each turn
evict what the next one needs. Holding whole programs back (`working-set`, `thunder`, `concur`) keeps the throughput.

The thrash curve: N agents at once in closed loop (a turn comes when the last one is answered and its think time is
over; when a program has ended the next begins), per policy: programs an hour, program time, time to first token, the
longest wait, hit rate. Beside it what an unlimited cache would find, and what Belady's would on the same schedule.
Then a host store of 0, 0.7, 1.4 and 3 times the contexts at work, and think times cut at 30 s, 300 s and not at all.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.best_cache import belady
from experiments._lib.case import At, Case, Numbers, Row, Workload, point, points, program_ratio, recorded, replayed
from experiments._lib.claim import Claim
from experiments._lib.figure import PAGE, curve, draw, legend, plain_log
from experiments._lib.sweep import ROOT, main
from fastserve.metrics.programs import completed_times
from fastserve.policies.spec import PolicySpec
from fastserve.workload.content import content
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POLICIES = {
    "fcfs": PolicySpec("fcfs"),
    "sj-mlfq": PolicySpec("sj-mlfq"),
    "program-fcfs": PolicySpec("program-fcfs"),
    "plas": PolicySpec("plas"),
    "atlas": PolicySpec("atlas"),
    "deepest-first": PolicySpec("deepest-first"),
    "lpm": PolicySpec("lpm"),
    "cachewise": PolicySpec("cachewise"),
    "continuum": PolicySpec("continuum"),
    "concur": PolicySpec("concur"),
    "thunder": PolicySpec("thunder"),
    "working-set": PolicySpec("working-set"),
}
BUNDLED = ROOT / "traces" / "agents-like.jsonl"
TRACES = {
    "agents-like": (BUNDLED, "opt-13b-a100"),
    "recorded": (Path("agents"), "roofline:llama-3-8b/a100-80g"),
}
"""name -> file (the recorded one below the folder of public traces), and a machine whose pool a dozen outgrow"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 1
    """seed 0 is the trace as it stands, others are its programs in another order"""
    traces: tuple[str, ...] = ("agents-like", "recorded")
    """the recorded ones where they are here"""
    agents: tuple[int, ...] = (2, 4, 8, 12, 16, 24)
    """at once"""
    policies: tuple[str, ...] = tuple(POLICIES)
    think_cap: float = 30.0
    """s; longer think times are cut"""
    stores: tuple[float, ...] = (0.0, 0.7, 1.4, 3.0)
    """host memory for prefixes, in units of all contexts at work: N times the mean longest context of a program"""
    caps: tuple[float | None, ...] = (300.0, None)
    """other think times, at the largest numbers of agents"""
    axes: tuple[str, ...] = ("fcfs", "lpm", "continuum", "thunder", "working-set")
    """policies on the axes of stores and think times"""


SCALES = {
    "smoke": Scale(
        traces=("agents-like",), agents=(4, 12, 24), policies=("fcfs", "sj-mlfq", "lpm", "working-set"), stores=(1.4,),
        caps=(), axes=("fcfs", "working-set"),
    ),
    "small": Scale(),
    "paper": Scale(seeds=5),
}  # fmt: skip


def folder() -> Path:
    """Where the public traces are, if they are here."""
    return Path(os.environ.get("FASTSERVE_TRACES") or ROOT.parent / "shared" / "traces")


def path_of(name: str) -> Path:
    return folder() / TRACES[name][0]


def absent(at: At) -> bool:
    """Whether a row's trace is not here, so that its numbers cannot be made again."""
    return not path_of(str(at["trace"])).exists()


@lru_cache(maxsize=2)
def _workload(name: str) -> Workload:
    return recorded(path_of(name), 1_000_000)


def cases(scale: Scale) -> list[Case]:
    found: list[Case] = []
    for name in scale.traces:
        if absent({"trace": name}):
            continue
        workload = _workload(name)
        base = Settings(latency=TRACES[name][1], think_cap=scale.think_cap)
        context = mean_context(workload)
        for seed in range(scale.seeds):
            for agents in scale.agents:
                at: At = {"part": "curve", "trace": name, "agents": agents, "store": 0.0, "cap": scale.think_cap}
                settings = base.with_(sessions=agents)
                found += [_case(at, workload, settings, label, seed) for label in scale.policies]
            most = scale.agents[-1]
            for store in scale.stores:
                tokens = round(store * most * context)
                at = {"part": "store", "trace": name, "agents": most, "store": store, "cap": scale.think_cap}
                settings = base.with_(sessions=most, host_prefix_tokens=tokens)
                found += [_case(at, workload, settings, label, seed) for label in scale.axes]
            for cap in scale.caps:
                for agents in scale.agents[-2:]:
                    at = {"part": "think", "trace": name, "agents": agents, "store": 0.0, "cap": cap or 0.0}
                    settings = base.with_(sessions=agents, think_cap=cap)
                    found += [_case(at, workload, settings, label, seed) for label in scale.axes]
    return found


def _case(at: At, workload: Workload, settings: Settings, label: str, seed: int) -> Case:
    return Case(at=at | {"policy": label}, workload=workload, settings=settings, policy=POLICIES[label], seed=seed)


def mean_context(workload: Workload) -> float:
    """Tokens of the longest context that a program comes to, in the mean over programs."""
    trace = workload.programs(0)
    assert trace.program is not None
    longest: dict[str, int] = {}
    for program, tokens in zip(trace.program, (trace.prompt + trace.output).tolist(), strict=True):
        longest[program] = max(longest.get(program, 0), tokens)
    return float(np.mean(list(longest.values())))


SAMPLES = 100
"""of the working set, over the run"""


def run(case: Case) -> Numbers:
    """The summary, the times of programs by name, Belady's hit rate on this schedule, and the working set over time."""
    done = replayed(case)
    assert done.programs is not None
    trace = case.workload.programs(case.seed)
    pool = case.settings.hardware().memory.device_tokens
    shared = content(trace, int(done.settings.get("prefix_tokens") or trace.block_size))
    numbers: Numbers = dict(done.summary)
    numbers |= {"rate": None, "load": None, "samples": case.workload.samples}
    numbers |= {"program_times": completed_times(done.programs), "pool_tokens": pool}
    numbers["hit_rate_belady"] = None if shared is None or pool is None else belady(done.records, shared, pool)
    numbers["working_set"], numbers["working_set_step_s"] = working_set(done.records)
    return numbers


def working_set(records: Any) -> tuple[list[int], float]:
    """Tokens of the contexts of programs that have begun and not ended, at SAMPLES moments; the step in s.

    A program's context is its last request's that has arrived, prompt and output, until the program's last end.
    """
    arrival, end = records["arrival"], records["end"]
    last = float(np.nanmax(np.where(np.isnan(end), arrival, end)))
    step = last / SAMPLES
    total = np.zeros(SAMPLES, np.int64)
    moments = np.arange(SAMPLES) * step
    for program in dict.fromkeys(records["program"].tolist()):
        rows = np.flatnonzero(records["program"] == program)
        rows = rows[np.argsort(arrival[rows], kind="stable")]
        until = last if np.isnan(end[rows]).any() else float(end[rows].max())
        at = np.searchsorted(arrival[rows], moments, side="right") - 1
        there = (at >= 0) & (moments < until)
        tokens = records["prompt_tokens"][rows] + records["output_tokens"][rows]
        total[there] += tokens[at[there]]
    return total.tolist(), step


def claims(rows: list[Row]) -> list[Claim]:
    found: list[Claim] = []
    for name in dict.fromkeys(str(row.at["trace"]) for row in rows):
        mine = [row for row in rows if row.at["trace"] == name and row.at["part"] == "curve"]
        most = max(int(row.at["agents"]) for row in mine)
        base = point(mine, policy="fcfs", agents=most)
        for other in points(mine, agents=most):
            label = str(other.at["policy"])
            if label == "fcfs":
                continue
            note = (
                f"programs an hour {other.mean('programs_per_hour'):.3g} against {base.mean('programs_per_hour'):.3g}, "
                f"hit rate {other.mean('hit_rate'):.2f} against {base.mean('hit_rate'):.2f}, "
                f"longest wait {other.mean('max_ttft_s'):.0f} s against {base.mean('max_ttft_s'):.0f} s"
            )
            text = f"{name}, {most} agents: mean program time, fcfs over {label}"
            found.append(Claim("agents", text, program_ratio(base, other), note=note))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    for name in dict.fromkeys(str(row.at["trace"]) for row in rows):
        mine = [row for row in rows if row.at["trace"] == name]
        draw(folder, f"thrash_{name}", (PAGE, 4.2), lambda figure, mine=mine: _draw_curves(figure, mine))
        draw(folder, f"pool_{name}", (PAGE, 2.4), lambda figure, mine=mine: _draw_pool(figure, mine))
        if any(row.at["part"] == "store" for row in mine):
            draw(folder, f"store_{name}", (PAGE, 2.4), lambda figure, mine=mine: _draw_stores(figure, mine))


MEASURES = {
    "programs_per_hour": "programs an hour",
    "program_time_mean_s": "mean program time (s)",
    "hit_rate": "hit rate (share of prompt tokens)",
    "p50_ttft_s": "median time to first token (s)",
    "p99_ttft_s": "P99 time to first token (s)",
    "max_ttft_s": "longest time to first token (s)",
}


def _draw_curves(figure: Figure, rows: list[Row]) -> None:
    curves = [row for row in rows if row.at["part"] == "curve"]
    labels = list(dict.fromkeys(str(row.at["policy"]) for row in curves))
    grid: Any = figure.subplots(2, 3, sharex=True)
    for axes, (measure, title) in zip(grid.flat, MEASURES.items(), strict=True):
        for label in labels:
            curve(axes, points(curves, policy=label), "agents", measure, label)
        if measure == "hit_rate":
            unlimited = float(np.mean([row.numbers["hit_rate_unlimited"] for row in curves]))
            axes.axhline(unlimited, color="#888888", linewidth=0.8, linestyle=":")
            axes.annotate("unlimited cache", (0.98, unlimited), xycoords=("axes fraction", "data"), ha="right",
                          va="bottom", fontsize=6, color="#555555")  # fmt: skip
            best = points(curves, policy="fcfs")
            xs, ys = [float(one.at["agents"]) for one in best], [one.mean("hit_rate_belady") for one in best]
            axes.plot(xs, ys, color="#888888", linewidth=0.8, linestyle="--", label="_Belady on the schedule of fcfs")
            axes.set_ylim(0, 1)
        elif measure != "programs_per_hour":
            axes.set_yscale("log")
            plain_log(axes.yaxis)
        axes.set_title(title)
    figure.supxlabel("agents at once", fontsize=8)
    legend(figure, grid.flat[0], 6)


def _draw_pool(figure: Figure, rows: list[Row]) -> None:
    """The working set against the pool, over time."""
    curves = [row for row in rows if row.at["part"] == "curve" and row.seed == 0]
    counts = sorted({int(row.at["agents"]) for row in curves})
    shown = [counts[0], counts[len(counts) // 2], counts[-1]]
    grid: Any = figure.subplots(1, 3, sharey=True)
    for axes, agents in zip(grid, shown, strict=True):
        for label in ("fcfs", "working-set"):
            (one,) = [row for row in curves if row.at["agents"] == agents and row.at["policy"] == label]
            _pool_line(axes, one, label)
        pool = one.numbers["pool_tokens"]
        if pool is not None:
            axes.axhline(pool / 1000, color="#888888", linewidth=0.8, linestyle=":")
            axes.annotate("KV pool", (0.02, pool / 1000), xycoords=("axes fraction", "data"), va="bottom", fontsize=6)
        axes.set_title(f"{agents} agents")
    grid[0].set_ylabel("contexts at work (1,000 tokens)")
    figure.supxlabel("time (1,000 s)", fontsize=8)
    legend(figure, grid[0], 2)


def _pool_line(axes: Axes, row: Row, label: str) -> None:
    from experiments._lib.figure import look_of

    style = look_of(label)
    values = row.numbers["working_set"]
    times = np.arange(len(values)) * row.numbers["working_set_step_s"] / 1000
    axes.plot(times, np.array(values) / 1000, color=style.colour, label=label, linewidth=0.9)


def _draw_stores(figure: Figure, rows: list[Row]) -> None:
    stores = [row for row in rows if row.at["part"] == "store"]
    grid: Any = figure.subplots(1, 3, sharex=True)
    for axes, measure in zip(grid, ("programs_per_hour", "program_time_mean_s", "max_ttft_s"), strict=True):
        for label in dict.fromkeys(str(row.at["policy"]) for row in stores):
            curve(axes, points(stores, policy=label), "store", measure, label)
        axes.set_title(MEASURES[measure])
    figure.supxlabel("host memory for prefixes, in contexts of all agents at work", fontsize=8)
    legend(figure, grid[0], 5)


if __name__ == "__main__":
    sys.exit(main("agents"))
