"""The thrash curve of a user's own agents: python -m experiments.agents --trace FOLDER."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path

from experiments._lib.agent_figures import FEW, pool_over_time, thrash_curve
from experiments._lib.agents import agents_of, fitting, mean_context, measured
from experiments._lib.case import Case, Numbers, Row, Workload, points, program_ratio
from experiments._lib.claim import shown
from fastserve.cli.arguments import add_settings
from fastserve.policies.spec import PolicySpec
from fastserve.workload import TraceError
from fastserve.workload.programs import groups
from sim.report.layout import aligned
from sim.settings import Settings

OWN = (
    "latency", "kv_tokens", "host_prefix_tokens", "max_batch", "prefix_tokens", "think_cap", "think_scale",
    "client_timeout",
)  # fmt: skip
USUAL = ("fcfs", "sj-mlfq", "lpm", "thunder", "working-set")
TIMES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Agents at once, in contexts that fit into the pool."""
LAPS = 3
"""Programs for each agent at once, at least."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """For a trace of the user's own."""
    parser.add_argument("--trace", metavar="FILE", help="a file or folder of recorded agents: print and draw its curve")
    mine = parser.add_argument_group("with --trace")
    add_settings(mine, Settings, OWN)
    mine.add_argument("--policy", action="append", help=f"repeat for several (default: {', '.join(USUAL)})")
    mine.add_argument("--agents", metavar="N,N,...", help="at once (default: by what fits into the pool)")
    mine.add_argument("--out", type=Path, metavar="DIR", help="for the figures (default: results/agents/NAME)")


def curve_of(args: argparse.Namespace) -> bool:
    """Prints and draws it; False without --trace. Raises TraceError or ValueError."""
    if not getattr(args, "trace", None):
        return False
    workload = agents_of(Path(args.trace))
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings) if field.name in OWN})
    specs = [PolicySpec.of(name) for name in args.policy or USUAL]
    trace = workload.programs(0)
    if trace.after is None or trace.hash_ids is None:
        what = "say which request waits for which" if trace.after is None else "tell which prompts begin alike"
        raise TraceError(f"{args.trace} does not {what}, so there is no curve of agents; traces/README.md: Sessions")
    programs, fits = len(groups(trace)), fitting(workload, settings)
    counts = _counts(args.agents) if args.agents else _around(fits, programs)
    copies = -(-LAPS * counts[-1] // programs)
    print(f"{trace.name}: {programs} programs, {len(trace)} requests, contexts of {mean_context(workload):,.0f} tokens")
    print(f"{settings.hardware().about}: {fits:.1f} of them fit at once")
    if copies > 1:
        print(f"each program is there {copies} times, so that as many are at work nearly all the time")
    workload = agents_of(Path(args.trace), copies)
    rows = _rows(workload, settings, specs, counts, args.jobs)
    print("\n" + "\n".join(_table(rows, [spec.title for spec in specs])))
    folder: Path = args.out or Path("results") / "agents" / (trace.name or "own")
    thrash_curve(folder, "thrash", rows)
    thrash_curve(folder, "curve", rows, FEW)
    pool_over_time(folder, "pool", rows, [spec.title for spec in specs])
    print(f"\nfigures: {os.path.relpath(folder)}: curve.png, thrash.png, pool.png")
    return True


def _counts(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise ValueError(f"--agents {text}: give whole numbers from 1, as in 2,4,8")
    return counts


def _around(fits: float, programs: int) -> list[int]:
    if fits == float("inf"):
        return [count for count in (1, 2, 4, 8, 16, 32) if count <= max(programs, 2)]
    return sorted({max(1, round(times * fits)) for times in TIMES})


def _rows(
    workload: Workload, settings: Settings, specs: Sequence[PolicySpec], counts: Sequence[int], jobs: int | None
) -> list[Row]:
    cases = [
        Case(
            at={"agents": agents, "policy": spec.title},
            workload=workload,
            settings=settings.with_(sessions=agents),
            policy=spec,
        )
        for agents in counts
        for spec in specs
    ]
    workers = min(jobs or os.cpu_count() or 1, len(cases))
    found = []
    with ProcessPoolExecutor(workers) as workshop:
        for case, numbers in zip(cases, workshop.map(_measured, cases), strict=True):
            found.append(Row(case.at, case.seed, numbers))
            print(f"\r{len(found)} of {len(cases)} runs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _measured(case: Case) -> Numbers:
    return measured(case)


HEAD = (
    ("agents", "policy", "programs", "mean", "time ratio", "hit", "TTFT s", "TTFT s", "1st turn", "longest", "longest"),
    ("", "", "an hour", "time s", "first / row", "rate", "p50", "p99", "p99", "TTFT s", "hold s"),
)
COLUMNS = (
    "hit_rate", "p50_ttft_s", "p99_ttft_s", "ttft_first_turn_p99_s", "max_ttft_s", "held_max_s",
)  # fmt: skip


def _table(rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    lines = [list(line) for line in HEAD]
    for agents in dict.fromkeys(int(row.at["agents"]) for row in rows):
        there = points(rows, agents=agents)
        base = next(one for one in there if one.at["policy"] == labels[0])
        for one in there:
            gain = program_ratio(base, one)
            cells = [f"{one.mean('programs_per_hour'):.3g}", f"{one.mean('program_time_mean_s'):.0f}"]
            cells.append("1" if one is base else "-" if gain is None else shown(gain))
            cells += [f"{one.mean(name):.3g}" for name in COLUMNS]
            lines.append([str(agents), str(one.at["policy"]), *cells])
    unlimited = points(rows)[0].mean("hit_rate_unlimited")
    best = [(one.at["agents"], one.mean("hit_rate_belady")) for one in points(rows, policy=labels[0])]
    said = ", ".join(f"{value:.2f} with {agents}" for agents, value in best if value == value)
    notes = [f"hit rate of an unlimited cache: {unlimited:.3f}"]
    if said:
        notes.append(f"of Belady's on the schedule of {labels[0]}: {said}")
    return [*aligned(lines), *notes, *_abandoned(rows)]


WHY = (
    ("rejected", "were rejected, as they never fit into the pool"),
    ("truncated", "outgrew the pool"),
    ("gave_up", "were given up by their clients"),
)


def _abandoned(rows: Sequence[Row]) -> list[str]:
    """What the times and rates of the table leave out: programs of which a request was not completed."""
    lost = [one for one in points(rows) if one.mean("programs_abandoned") > 0]
    if not lost:
        return []
    worst = max(lost, key=lambda one: one.mean("programs_abandoned"))
    why = [f"{worst.mean(name):,.0f} {words}" for name, words in WHY if worst.mean(name) > 0]
    found = [
        f"abandoned, so in no program time and no programs an hour: {worst.mean('programs_abandoned'):,.0f} of "
        f"{worst.mean('programs'):,.0f} programs",
        f"  ({worst.at['policy']} with {worst.at['agents']}{', the most' if len(lost) > 1 else ''}); of their requests "
        f"{', '.join(why) or 'some were not completed'}",
    ]
    if worst.mean("rejected") > 0 or worst.mean("truncated") > 0:
        found.append(
            "  the curve is that of the smaller ones: is this your machine and your pool? --latency, --kv-tokens"
        )
    return found
