"""python -m experiments.agents_published --scale small

Claim (the papers and reports of 2026 on agents): by how much this or that policy serves agents better. Each was found
on a fork, a machine and agents of its own. Here the policies run side by side on the recorded agents (where they are
here; at the smoke scale on the bundled ones) and one modelled machine, each comparison in a setting as near to the
published one as these agents allow: the same number at once, or the same contexts per pool. So an answer of "no" is
about the size of an effect elsewhere; whether its sign is the same is what to look at first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments._lib.agents import POLICIES, TRACES, absent, agents_of, fitting, mean_context, measured, path_of
from experiments._lib.case import Case, Numbers, Point, Row, point, program_ratio, ratio
from experiments._lib.claim import Claim, published
from experiments._lib.figure import PAGE, draw, look_of
from experiments._lib.sweep import main
from fastserve.metrics.intervals import Ratio
from sim.settings import Settings

__all__ = ["SCALES", "USES", "absent", "cases", "claims", "plot", "run"]

USES = ("agents.py", "best_cache.py")
OURS = "our agents: 33 recorded coding agents on Llama-3-8B, an A100 and a pool of 427k tokens, modelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    trace: str = "recorded"
    copies: int = 1
    crowd: int = 4
    """copies of each program for the Poisson arrivals"""
    rate: float = 0.1
    """programs/s of these"""
    few: int = 4
    many: int = 24
    think_cap: float = 30.0
    """s; longer think times are cut, as the published agents' gaps are those of tools"""


SCALES = {
    "smoke": Scale(trace="agents-like", crowd=1, many=12),
    "small": Scale(),
    "paper": Scale(copies=4),
}


def cases(scale: Scale) -> list[Case]:
    """In parts, each a published setting."""
    if absent({"trace": scale.trace}):
        return []
    workload, crowd = (agents_of(path_of(scale.trace), copies) for copies in (scale.copies, scale.crowd))
    base = Settings(latency=TRACES[scale.trace][1], think_cap=scale.think_cap)
    context, fits = mean_context(workload), fitting(workload, base)
    tight = max(2, round(1.22 * fits * 2))  # 16 contexts of 18k in 236k; a program's mean context is half its longest
    stored = {share: base.with_(host_prefix_tokens=round(share * tight * context / 2)) for share in (0.35, 1.4)}
    parts = [
        ("poisson", crowd, base.with_(program_rate=scale.rate, max_batch=8), ("fcfs", "thunder", "cachewise")),
        ("few", workload, base.with_(sessions=scale.few), ("fcfs", "plas", "continuum", "cachewise")),
        ("16", workload, base.with_(sessions=min(16, scale.many)), ("fcfs", "continuum")),
        ("tight", workload, base.with_(sessions=tight), ("fcfs", "lpm")),
        ("tight, small store", workload, stored[0.35].with_(sessions=tight), ("fcfs",)),
        ("tight, store", workload, stored[1.4].with_(sessions=tight), ("fcfs", "lpm")),
        ("many", workload, base.with_(sessions=scale.many), (
            "fcfs", "sj-mlfq", "plas", "lpm", "program-fcfs", "continuum", "continuum (paper)", "concur", "thunder",
            "working-set",
        )),
        ("fitting", workload, base.with_(sessions=max(1, round(fits))), ("fcfs",)),
    ]  # fmt: skip
    return [
        Case(
            at={"part": part, "trace": scale.trace, "policy": label},
            workload=agents,
            settings=settings,
            policy=POLICIES[label],
        )
        for part, agents, settings, labels in parts
        for label in labels
    ]


def run(case: Case) -> Numbers:
    return measured(case, over_time=False)


def claims(rows: list[Row]) -> list[Claim]:
    if not rows:
        return []
    return [*_head_to_head(rows), *_stores(rows), *_gates(rows), *_continuum(rows), *_levels(rows), *_belady(rows)]


def _at(rows: list[Row], part: str, policy: str) -> Point:
    return point(rows, part=part, policy=policy)


def _claim(who: str, what: str, ours: Ratio | None, why: str, note: str = "") -> Claim:
    return Claim(who, what, ours, published(who, what), f"{why}; {OURS}", note)


def _rate(rows: list[Row], part: str, policy: str, base: str = "fcfs") -> Ratio | None:
    return ratio(_at(rows, part, policy), _at(rows, part, base), "programs_per_hour_whole")


def _value(point: Point, measure: str) -> Ratio:
    return Ratio(point.mean(measure), None, None)


def _head_to_head(rows: list[Row]) -> list[Claim]:
    who, part = "agent-sched-bench", "poisson"
    why = "theirs have prompts of 27k tokens in the mean, ours of 73k, and one run there is one draw"
    found = []
    for label in ("thunder", "cachewise"):
        mine, base = _at(rows, part, label), _at(rows, part, "fcfs")
        found.append(_claim(who, f"128 agents, Poisson: tasks/h, {label} over fcfs", _rate(rows, part, label), why))
        text = f"128 agents, Poisson: P99 TTFT, {label} over fcfs"
        found.append(_claim(who, text, ratio(mine, base, "p99_ttft_s"), why))
    for label in ("fcfs", "thunder", "cachewise"):
        value = _value(_at(rows, part, label), "hit_rate")
        found.append(_claim(who, f"128 agents, Poisson: hit rate, {label}", value, why))
    found.append(
        _claim(who, "16 at once: tasks/h, continuum over fcfs", _rate(rows, "16", "continuum"),
               "theirs ran Qwen3-4B on an L40S and has gaps of 1 s, which pins of 2 s outlast")
    )  # fmt: skip
    for label in ("plas", "continuum", "cachewise"):
        gain = program_ratio(_at(rows, "few", "fcfs"), _at(rows, "few", label))
        found.append(_claim(who, f"4 at once: task time, fcfs over {label}", gain, "4 of our contexts nearly fill it"))
    return found


def _stores(rows: list[Row]) -> list[Claim]:
    who, none = "store or admission", _at(rows, "tight", "fcfs")
    why = "theirs: Qwen3-32B, 236k tokens, 16 agents of 18k; ours: as many contexts for the pool, of longer programs"
    pairs = {
        "admission": _at(rows, "tight", "lpm"),
        "store of 1.4": _at(rows, "tight, store", "fcfs"),
        "both": _at(rows, "tight, store", "lpm"),
        "store of 0.35": _at(rows, "tight, small store", "fcfs"),
    }
    return [
        _claim(who, f"task time, neither over {name}", program_ratio(none, one), why) for name, one in pairs.items()
    ]


def _gates(rows: list[Row]) -> list[Claim]:
    many = "24 agents: programs/h"
    thunder = _rate(rows, "many", "thunder")
    return [
        _claim("ThunderAgent", f"{many}, thunder over fcfs", thunder, "theirs: 8xH100, 24 to 96 agents of 3 kinds"),
        _claim("ThunderAgent", f"{many}, thunder over continuum", _rate(rows, "many", "thunder", "continuum"),
               "our pins of 2 s hold less than what a tool of ours takes"),
        _claim("CONCUR", "time of the whole batch, without over with", _rate(rows, "many", "concur"),
               "period, window of the hit rate and first W are not published"),
        _claim("CONCUR", "hit rate without", _value(_at(rows, "many", "fcfs"), "hit_rate"), "theirs: 40 agents"),
        _claim("CONCUR", "hit rate with", _value(_at(rows, "many", "concur"), "hit_rate"), "theirs: 40 agents"),
        _claim("thrash curve", "best throughput over that of 20 agents, fcfs",
               ratio(_at(rows, "fitting", "fcfs"), _at(rows, "many", "fcfs"), "programs_per_hour"),
               "theirs is minimax-m3 on 8xH200, in tokens/s: what a server computes, not what agents get done"),
    ]  # fmt: skip


def _continuum(rows: list[Row]) -> list[Claim]:
    base = _at(rows, "many", "fcfs")
    why = "theirs: gaps of 0.9 s, which a pin of 2 s outlasts; of ours half are longer than 10 s"
    delays = {"program order": "program-fcfs", "pins of 2 s": "continuum", "tau*": "continuum (paper)"}
    return [
        _claim("Continuum", f"delay, vLLM over {name}", program_ratio(base, _at(rows, "many", label)), why)
        for name, label in delays.items()
    ]


def _levels(rows: list[Row]) -> list[Claim]:
    why = "theirs have contexts below 1k tokens, so that nothing is ever evicted: a queue, and no pool"
    plas = _at(rows, "many", "plas")
    return [
        _claim("Autellix", f"program time, {base} over plas", program_ratio(_at(rows, "many", base), plas), why)
        for base in ("fcfs", "sj-mlfq")
    ]


def _belady(rows: list[Row]) -> list[Claim]:
    """Tokens that were computed over those that the best possible cache would have left to compute."""
    found = []
    for label in ("fcfs", "lpm", "working-set"):
        mine = _at(rows, "many", label)
        misses, best = 1 - mine.mean("hit_rate"), 1 - mine.mean("hit_rate_belady")
        note = f"hit rate {1 - misses:.2f}, Belady's on its schedule {1 - best:.2f}"
        text = f"misses of {label} over Belady's on its schedule"
        why = "SAGA's order of eviction is not among ours, least recently used is; what its 1.31 compares is not said"
        found.append(_claim("SAGA", text, Ratio(misses / best, None, None), why, note))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    """Published and ours, a line each."""
    found = [claim for claim in claims(rows) if claim.published is not None and claim.ours is not None]

    def fill(figure: object) -> None:
        _draw_pairs(figure, found)

    draw(folder, "published", (PAGE, 0.8 + 0.17 * len(found)), fill)


def _draw_pairs(figure: object, found: Sequence[Claim]) -> None:
    axes = figure.subplots()  # type: ignore[attr-defined]
    for line, claim in enumerate(found):
        assert claim.ours is not None
        assert claim.published is not None
        axes.plot([claim.published.low, claim.published.high], [line, line], "s-", color="#888888", markersize=3.5)
        style = look_of("working-set")
        axes.plot([claim.ours.mean], [line], "o", color=style.colour)
        if claim.ours.low is not None and claim.ours.high is not None:
            axes.plot([claim.ours.low, claim.ours.high], [line, line], color=style.colour, linewidth=0.8)
    axes.set_yticks(range(len(found)), [f"{claim.figure}: {claim.text}" for claim in found], fontsize=5.5)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="#BBBBBB", linewidth=0.6)
    axes.set_xlabel("published (grey squares), ours (dots)")


if __name__ == "__main__":
    sys.exit(main("agents_published"))
