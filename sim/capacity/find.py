"""capacity(): for each policy and seed the largest load at which enough requests meet their objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastserve.metrics.slo import Slo
from fastserve.policies.spec import PolicyLike, told_apart
from fastserve.routers.spec import RouterLike
from fastserve.workload import Synthesis, Trace
from fastserve.workload.requests import targets_of
from fastserve.workload.seeds import RESAMPLES, SeedSource
from sim.asked import check, policies, routed, seed_numbers, workload
from sim.capacity.alone import met_alone
from sim.capacity.folder import Folder
from sim.capacity.plan import Plan, Pool
from sim.capacity.result import Capacity
from sim.capacity.work import Goal, Work
from sim.settings import Settings
from sim.sustained import sustained_rate
from sim.sweep.grid import Cell
from sim.sweep.pool import POOLS

ATTAIN: Final = 0.95
"""Share of the requests that must meet their objectives, where nobody says."""
SEEDS: Final = 5
LOWEST, HIGHEST, TOLERANCE = 0.1, 4.0, 0.02
STEPS: Final = 8
"""Loads from the lowest to the highest, evenly spaced on a log scale, that are tried upwards until one fails."""


def capacity(
    trace: Trace | SeedSource | str | Path | None = None,
    policy: PolicyLike | Sequence[PolicyLike] = ("fcfs", "sj-mlfq"),
    *,
    slo: str | Slo | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    tolerance: float = TOLERANCE,
    synth: str | Synthesis | None = None,
    router: RouterLike | Sequence[RouterLike] | None = None,
    seeds: int | Sequence[int] = SEEDS,
    settings: Settings | None = None,
    out: str | Path | None = None,
    pool: str = POOLS[0],
    jobs: int | None = None,
    address: str | None = None,
    progress: bool | None = None,
    reading: Mapping[str, Any] | None = None,
    num_requests: int | None = None,
    resample: str = RESAMPLES[0],
    cut_short: bool = True,
    **changes: Any,
) -> Capacity:
    """The largest load, and rate, at which a share of the requests meets its objectives, by policy; see Capacity.

    slo: objectives of requests that bring none of their own, and the share of the requests that must meet all theirs,
    as "ttft=1s,tpot=0.1s,attain=0.95" (Slo.parse; 0.95 where it does not say). For each policy and seed STEPS loads
    from `lowest` to `highest` are tried upwards until one fails, and the crossing is bisected to `tolerance`
    (relative): metrics.largest_rate(). Loads are in units of what fcfs sustains, as `load` of replay(); the run at a
    load is that of replay(load=...), with the same requests at every load. cut_short: whether runs that can no longer
    meet it are ended early, which changes no result. out: a folder; each search is a file there as soon as it is done,
    and a second call goes on from it. pool, jobs, address, progress: as sweep() takes them; all else as replay() does.

    Raises ValueError (TraceError for the trace) with what was wrong, also where requests wait for others and so have no
    rate; RunError for a policy that breaks; OutputError. After Ctrl-C returns what has finished.
    """
    chosen = (settings or Settings()).with_(**changes)
    goal = _goal(_objectives(slo, chosen), lowest, highest, tolerance, cut_short)
    chosen = chosen.with_(slo=str(goal.slo) or None)
    for name in ("rate", "load"):
        if getattr(chosen, name) is not None:
            raise ValueError(f"{name}={getattr(chosen, name):g}: the load is what is looked for; leave {name} out")
    specs, variants, numbers = told_apart(policies(policy)), routed(chosen, router), seed_numbers(seeds)
    rows = [(spec, variant) for variant in variants for spec in specs]
    cells = [Cell(label, {}, *row) for label, row in zip(check(specs, variants), rows, strict=True)]
    source = workload(
        trace, synth, Settings(load=1.0),
        reading=reading, num_requests=num_requests, resample=resample, seeds=max(numbers) + 1,
    )  # fmt: skip
    typical = source.typical()
    _check(typical, chosen, goal.slo)
    folder = None if out is None else Folder(Path(out))
    if folder is not None:
        folder.begin()
    sustained = sustained_rate(typical, chosen)
    plan = Plan(Work(source, goal, numbers[0], sustained), cells, numbers, Pool(pool, jobs, address, progress), folder)
    result = Capacity(
        slo=str(replace(goal.slo, attain=goal.attain)), attain=goal.attain, sustained_rps=sustained,
        labels=[cell.label for cell in cells], seeds=numbers, lowest=lowest, highest=highest, tolerance=tolerance,
        requests=source.jobs, resampled=source.words, samples=source.samples(max(numbers) + 1),
        reading=[] if typical.reading is None else typical.reading.lines(), planned=len(plan.cases),
        found=plan.searches(), more=plan.runs,
    )  # fmt: skip
    if any(one.bound == "below" for one in result.found):
        result.met_alone = met_alone(typical, chosen, goal.slo)
    if folder is not None and not result.interrupted:
        folder.end(result)
    return result


def _objectives(slo: str | Slo | None, settings: Settings) -> Slo:
    if slo is not None and settings.slo is not None:
        raise ValueError(f"slo={slo!s} and settings with slo={settings.slo}: give one of the two")
    return Slo.parse(slo) if slo is not None else settings.objectives


def _goal(slo: Slo, lowest: float, highest: float, tolerance: float, cut_short: bool) -> Goal:
    if not 0 < lowest < highest < float("inf"):
        raise ValueError(f"lowest={lowest:g}, highest={highest:g}: loads must satisfy 0 < lowest < highest")
    if not 1e-6 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance:g} must be at least 1e-6 and below 1; 0.02 is 2 %")
    attain = ATTAIN if slo.attain is None else slo.attain
    return Goal(replace(slo, attain=None), attain, lowest, highest, STEPS, tolerance, cut_short)


def _check(trace: Trace, settings: Settings, slo: Slo) -> None:
    if settings.waits(trace):
        paced = [name for name in ("sessions", "program_rate") if getattr(settings, name) is not None]
        waiting = f"requests of {trace.name!r} come when others have been answered"
        raise ValueError(
            f"{f'{paced[0]} says when programs come' if paced else waiting}, so there is no load to look for. Of a "
            "closed loop try numbers of programs at once: python -m sim sweep --sessions 1,2,4,8 --slo ...; or replay "
            "the recorded arrivals with --open-loop"
        )
    if len(trace) < 2:
        raise ValueError("one request has no rate, so there is no load to look for: give two or more")
    if slo == Slo() and targets_of(trace) is None:
        raise ValueError(
            f"no objective: requests of {trace.name!r} bring none of their own; give some as slo ttft=1s,tpot=0.1s "
            "(e2e=30s: from arrival to end)"
        )
