"""python -m experiments.routers --scale smoke

Questions. (a) Behind one address stand several replicas: does it matter more which replica gets a request (the router)
or which request a replica serves first (the policy), and where do they help each other? Azure's conversations, in open
loop; Mooncake's conversations, whose prompts share beginnings, with the prefix cache; agents in closed loop, whose
turns repeat their contexts. Every router under every policy. The two help each other where the gain of both is more
than the product of their gains: "both over the product" above 1.
(b) What a router is told of its replicas is old. Which router breaks, and from which age on? Delays of views up to
10 s; each rule by what the replicas told as it stands, and with what its sender has sent since; two by lot beside the
least of all; and what the sender counts itself, which is never old.

The public traces take part where they are here (FASTSERVE_TRACES names the folder); the bundled ones always run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.agents import TRACES, agents_of, path_of
from experiments._lib.case import At, Case, Numbers, Point, Row, Workload, point, points, ratio, recorded, simulate
from experiments._lib.claim import Claim
from experiments._lib.figure import PAGE, cells, curve, draw, legend, plain_log
from experiments._lib.public import folder
from experiments._lib.sweep import ROOT, main
from fastserve.policies.spec import PolicySpec
from fastserve.routers.spec import RouterSpec
from sim.report.style import BLACK, GREEN, ORANGE, PURPLE, SKY, VERMILION, Look
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROUTERS = {
    "random": RouterSpec("random"),
    "round-robin": RouterSpec("round-robin"),
    "power-of-two": RouterSpec("power-of-two"),
    "least-connections": RouterSpec("least-connections"),
    "least-tokens": RouterSpec("least-tokens"),
    "least-tokens (oracle)": RouterSpec("least-tokens"),
    "freeness": RouterSpec("freeness"),
    "session": RouterSpec("session"),
    "session (bound)": RouterSpec("session", {"bound": 1.25}),
    "prefix": RouterSpec("prefix"),
    "prefix (e2)": RouterSpec("prefix", {"rule": "e2"}),
}
"""Output lengths are guessed by the mean of the answers so far, as in the gateway; by an oracle where that is said."""
POLICIES = {
    "fcfs": PolicySpec("fcfs"),
    "sj-mlfq": PolicySpec("sj-mlfq"),
    "srpt (oracle)": PolicySpec("srpt"),
    "lpm": PolicySpec("lpm"),
    "working-set": PolicySpec("working-set"),
}
BY_LOAD = (
    "random", "round-robin", "power-of-two", "least-connections", "least-tokens", "least-tokens (oracle)", "freeness",
)  # fmt: skip
OLD = {
    "random": (RouterSpec("random"), Look(BLACK, "o", ":")),
    "least outstanding (own count)": (RouterSpec("least-connections"), Look(BLACK, "s", "-")),
    "two, jobs as told": (RouterSpec("power-of-two", {"load": "jobs"}), Look(GREEN, "^", "-")),
    "two, tokens as told": (RouterSpec("power-of-two", {"load": "tokens"}), Look(SKY, "v", "-")),
    "least jobs as told": (RouterSpec("least-connections", {"load": "jobs"}), Look(VERMILION, "D", "--")),
    "least-tokens as told": (RouterSpec("least-tokens", {"add_sent": False}), Look(ORANGE, "P", "--")),
    "least-tokens": (RouterSpec("least-tokens"), Look(ORANGE, "P", "-")),
    "freeness as told": (RouterSpec("freeness", {"add_sent": False}), Look(PURPLE, "X", "--")),
    "freeness": (RouterSpec("freeness"), Look(PURPLE, "X", "-")),
}
"""of part (b), and how each is drawn"""
BUNDLED = ROOT / "traces" / "azure-conv-like.jsonl"
AZURE = "azure_2023/AzureLLMInferenceTrace_conv.csv"
MOONCAKE = "mooncake/conversation_trace.first40min.jsonl"
BASE = ("round-robin", "fcfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """of Azure's trace: seed 0 is the trace as it stands, the others put blocks of it together"""
    few: int = 4
    """seeds of Mooncake's, and of part (b)"""
    replicas: int = 4
    requests: int = 2000
    """the first so many of each trace in open loop"""
    public: bool = True
    """whether the public traces take part, where they are here"""
    loads: tuple[float, ...] = (0.7, 0.9, 1.1)
    """of Azure's, in units of what fcfs on all replicas sustains"""
    shared_loads: tuple[float, ...] = (0.8, 1.2)
    """of Mooncake's, in units of what they sustain without a cache"""
    agents: tuple[int, ...] = (16, 32)
    """at once"""
    copies: int = 4
    """of each program of the agents' trace"""
    policies: tuple[str, ...] = tuple(POLICIES)
    many: int = 8
    """replicas of part (b)"""
    load: float = 0.8
    """of part (b)"""
    delays: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
    """s"""


SCALES = {
    "smoke": Scale(
        seeds=2, few=2, requests=200, public=False, loads=(0.9,), agents=(12,), copies=1, policies=("fcfs", "sj-mlfq"),
        delays=(0.0, 3.0), many=4,
    ),
    "small": Scale(),
    "paper": Scale(seeds=10, few=10, requests=5000, copies=8, delays=(0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traffic:
    """A trace of part (a) at one level, and what runs on it. level: its load, or how many agents are at once."""

    name: str
    level: float
    workload: Workload
    settings: Settings
    routers: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: int


AGENTS = "agents-like"


def measure_of(trace: str) -> str:
    """What is compared, s."""
    return "program_time_mean_s" if trace == AGENTS else "mean_jct_s"


def absent(at: At) -> bool:
    """Whether a row's trace is not here, so that its numbers cannot be made again."""
    file = {"azure-conv": AZURE, "mooncake-conv": MOONCAKE}.get(str(at["trace"]))
    return file is not None and not (folder() / file).exists()


def _azure(scale: Scale) -> tuple[str, Workload]:
    there = scale.public and not absent({"trace": "azure-conv"})
    name, path = ("azure-conv", folder() / AZURE) if there else ("bundled", BUNDLED)
    return name, recorded(path, scale.requests)


def _traffics(scale: Scale) -> list[Traffic]:
    def kept(*labels: str) -> tuple[str, ...]:
        return tuple(label for label in labels if label in scale.policies)

    name, workload = _azure(scale)
    plain = Settings(latency="opt-13b-a100", max_batch=64, replicas=scale.replicas)
    orders = kept("fcfs", "sj-mlfq", "srpt (oracle)")
    found = [
        Traffic(name, load, workload, plain.with_(load=load), BY_LOAD, orders, scale.seeds) for load in scale.loads
    ]
    if scale.public and not absent({"trace": "mooncake-conv"}):
        chats = recorded(folder() / MOONCAKE, scale.requests)
        shared = Settings(latency="roofline:llama-3-8b/h100", replicas=scale.replicas, prefix_cache="on")
        routers = (*BY_LOAD, "prefix", "prefix (e2)")
        found += [
            Traffic("mooncake-conv", load, chats, shared.with_(load=load), routers, (*orders, "lpm"), scale.few)
            for load in scale.shared_loads
        ]
    closed = Settings(latency=TRACES[AGENTS][1], think_cap=30.0, replicas=scale.replicas)
    orders = kept("fcfs", "sj-mlfq", "lpm", "working-set")
    programs = agents_of(path_of(AGENTS), scale.copies)
    found += [
        Traffic(AGENTS, agents, programs, closed.with_(sessions=agents), tuple(ROUTERS), orders, 1)
        for agents in scale.agents
    ]
    return found


def cases(scale: Scale) -> list[Case]:
    found = [
        Case(
            at={"part": "both", "trace": one.name, "level": one.level, "router": router, "policy": policy},
            workload=one.workload,
            settings=one.settings.with_(
                router=ROUTERS[router], predictor="oracle" if "oracle" in router + policy else "none"
            ),
            policy=POLICIES[policy],
            seed=seed,
        )
        for one in _traffics(scale)
        for seed in range(one.seeds)
        for router in one.routers
        for policy in one.policies
    ]
    name, workload = _azure(scale)
    settings = Settings(
        latency="opt-13b-a100", max_batch=64, load=scale.load, replicas=scale.many, predictor="none"
    )  # fmt: skip
    found += [
        Case(
            at={"part": "old views", "trace": name, "router": label, "delay": delay, "policy": "fcfs"},
            workload=workload,
            settings=settings.with_(router=spec, view_delay=delay),
            seed=seed,
        )
        for seed in range(scale.few)
        for delay in scale.delays
        for label, (spec, _) in OLD.items()
    ]
    return found


def run(case: Case) -> Numbers:
    return simulate(case)


# -- claims ------------------------------------------------------------------------------------------------------------


def claims(rows: list[Row]) -> list[Claim]:
    both = [row for row in rows if row.at["part"] == "both"]
    found = []
    for trace, level in dict.fromkeys((str(row.at["trace"]), row.at["level"]) for row in both):
        there = [row for row in both if (row.at["trace"], row.at["level"]) == (trace, level)]
        found += _gains(there, trace, f"{level} agents" if trace == AGENTS else f"load {level:g}")
    return found + _ages([row for row in rows if row.at["part"] == "old views"])


def _gains(rows: list[Row], trace: str, where: str) -> list[Claim]:
    """Of each router, each policy, and of the best of each together, over round-robin and fcfs."""
    figure, measure = f"routers, {trace}", measure_of(trace)
    name = f"{where}: " + ("mean program time" if trace == AGENTS else "mean JCT")
    base = point(rows, router=BASE[0], policy=BASE[1])
    routers, policies = points(rows, policy=BASE[1]), points(rows, router=BASE[0])
    found = []
    for one in [*routers, *policies]:
        router, policy = str(one.at["router"]), str(one.at["policy"])
        if (router, policy) != BASE:
            text = f"{name}, {' + '.join(BASE)} over {router} + {policy}"
            found.append(Claim(figure, text, ratio(base, one, measure), note=_told(one)))
    for words, there in (("router", routers), ("policy", policies)):
        ordered = sorted(there, key=lambda one: one.mean(measure))
        text = f"{name}, worst over best {words} ({ordered[-1].at[words]} over {ordered[0].at[words]})"
        found.append(Claim(figure, text, ratio(ordered[-1], ordered[0], measure)))
    best = min(points(rows), key=lambda one: one.mean(measure))
    text = f"{name}, {' + '.join(BASE)} over the best, {best.at['router']} + {best.at['policy']}"
    found.append(Claim(figure, text, ratio(base, best, measure), note=_told(best)))
    pairs = [one for one in points(rows) if one.at["router"] != BASE[0] and one.at["policy"] != BASE[1]]
    for words, pick in (("largest", max), ("smallest", min)):
        one = pick(pairs, key=lambda one: _over_product(rows, one, measure))
        pair = f"{one.at['router']} + {one.at['policy']}"
        text = f"{where}: gain of both over the product of their gains, the {words} ({pair})"
        found.append(Claim(figure, text, None, note=f"{_over_product(rows, one, measure):.2f}"))
    return found


def _over_product(rows: list[Row], one: Point, measure: str) -> float:
    """Above 1 where router and policy help each other."""
    router, policy = str(one.at["router"]), str(one.at["policy"])
    alone = (point(rows, router=router, policy=BASE[1]), point(rows, router=BASE[0], policy=policy))
    base = point(rows, router=BASE[0], policy=BASE[1]).mean(measure)
    return alone[0].mean(measure) * alone[1].mean(measure) / (base * one.mean(measure))


def _told(one: Point) -> str:
    hits = one.mean("hit_rate")
    share = f", hit rate {hits:.2f}" if hits > 0 else ""
    return f"imbalance {one.mean('imbalance'):.2f}{share}"


def _ages(rows: list[Row]) -> list[Claim]:
    """Each rule over random: above 1 as long as what it is told is worth something."""
    found = []
    for label in OLD:
        if label == "random":
            continue
        there = {float(one.at["delay"]): one for one in points(rows, router=label)}
        gains = {
            delay: ratio(point(rows, router="random", delay=delay), one, "mean_jct_s") for delay, one in there.items()
        }
        for delay in (min(there), max(there)):
            text = f"views {delay:g} s old: mean JCT, random over {label}"
            found.append(Claim("routers, old views", text, gains[delay], note=_told(there[delay])))
        worse = [delay for delay, gain in gains.items() if gain is not None and gain.mean < 1]
        note = f"{min(worse):g} s" if worse else f"not up to {max(there):g} s"
        found.append(Claim("routers, old views", f"age from which random is better than {label}", None, note=note))
    return found


# -- figures -----------------------------------------------------------------------------------------------------------


def plot(rows: list[Row], folder: Path) -> None:
    _draw_both([row for row in rows if row.at["part"] == "both"], folder)
    _draw_ages([row for row in rows if row.at["part"] == "old views"], folder)


def _draw_both(rows: list[Row], folder: Path) -> None:
    def fill(figure: Figure) -> None:
        there = list(dict.fromkeys((str(row.at["trace"]), row.at["level"]) for row in rows))
        for axes, (trace, level) in zip(cells(figure, len(there), 4), there, strict=True):
            title = f"{trace}, {level} at once" if trace == AGENTS else f"{trace}, load {level:g}"
            _draw_grid(
                axes, [row for row in rows if (row.at["trace"], row.at["level"]) == (trace, level)], trace, title
            )
        figure.supxlabel(
            f"gain in mean JCT (agents: mean program time) over {' + '.join(BASE)}; in brackets the prefix hit rate, %",
            fontsize=8,
        )

    draw(folder, "routers", (PAGE * 1.5, 6.5), fill)


def _draw_grid(axes: Axes, rows: list[Row], trace: str, title: str) -> None:
    """A row a router, a column a policy."""
    measure = measure_of(trace)
    routers = list(dict.fromkeys(str(row.at["router"]) for row in rows))
    policies = list(dict.fromkeys(str(row.at["policy"]) for row in rows))
    base = point(rows, router=BASE[0], policy=BASE[1]).mean(measure)
    there = [[point(rows, router=router, policy=policy) for policy in policies] for router in routers]
    gains = np.array([[base / one.mean(measure) for one in line] for line in there])
    axes.imshow(np.log(gains), cmap="RdBu", vmin=-1.2, vmax=1.2, aspect="auto")
    for (row, column), gain in np.ndenumerate(gains):
        hits = there[row][column].mean("hit_rate")
        text = f"{gain:.2f}" + (f"\n({100 * hits:.0f})" if hits > 0 else "")
        colour = "white" if abs(np.log(gain)) > 0.8 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(len(policies)), [label.replace(" ", "\n").replace("-", "-\n") for label in policies])
    axes.set_yticks(range(len(routers)), routers)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_title(title)


def _draw_ages(rows: list[Row], folder: Path) -> None:
    def fill(figure: Figure) -> None:
        grid: Sequence[Any] = figure.subplots(1, 3, sharex=True)
        titles = {"mean_jct_s": "mean JCT (s)", "p99_ttft_s": "P99 TTFT (s)", "imbalance": "busiest over mean replica"}
        for axes, (measure, title) in zip(grid, titles.items(), strict=True):
            for label, (_, style) in OLD.items():
                curve(axes, points(rows, router=label), "delay", measure, label, style)
            axes.set_xscale("symlog", linthresh=0.1)
            axes.set_yscale("log")
            plain_log(axes.yaxis)
            axes.set_xticks([0.0, 0.1, 1.0, 10.0], ["0", "0.1", "1", "10"])
            axes.set_title(title)
        figure.supxlabel("age of the router's views (s)", fontsize=8)
        legend(figure, grid[0], 4)

    draw(folder, "old_views", (PAGE, 2.9), fill)


if __name__ == "__main__":
    sys.exit(main("routers"))
