"""capacity(): for each policy and seed the largest load at which enough requests meet their objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastserve.metrics.slo import Slo
from fastserve.policies.spec import PolicyLike, PolicySpec, told_apart
from fastserve.routers.spec import RouterLike, RouterSpec
from fastserve.workload import Synthesis, Trace, read_trace
from fastserve.workload.requests import targets_of
from fastserve.workload.seeds import ONE_OF_THE_TWO, RESAMPLES, SeedSource, source_of
from sim.capacity.pool import each
from sim.capacity.result import Capacity
from sim.capacity.task import Attained, Task, looked_for
from sim.replay import check
from sim.settings import Settings
from sim.sustained import sustained_rate

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
    router: RouterLike | Sequence[RouterLike] | None = None,
    seeds: int | Sequence[int] = SEEDS,
    settings: Settings | None = None,
    jobs: int | None = None,
    progress: bool | None = None,
    reading: Mapping[str, Any] | None = None,
    num_requests: int | None = None,
    synth: str | Synthesis | None = None,
    resample: str = RESAMPLES[0],
    curve: bool = False,
    cut_short: bool = True,
    **changes: Any,
) -> Capacity:
    """The largest load, and rate, at which a share of the requests meets its objectives, by policy; see Capacity.

    slo: objectives of requests that bring none of their own, and the share of the requests that must meet all theirs,
    as "ttft=1s,tpot=0.1s,attain=0.95" (Slo.parse; 0.95 where it does not say). For each policy and seed STEPS loads
    from `lowest` to `highest` are tried upwards until one fails, and the crossing is bisected to `tolerance`
    (relative): metrics.largest_rate(). Loads are in units of what fcfs sustains, as `load` of replay(); the run at a
    load is that of replay(load=...), with the same requests at every load. jobs: processes (None: as many as there are
    cores). curve: also runs for a curve of attainment against load, which Capacity.plot() draws. cut_short: whether
    runs that can no longer meet it are stopped early, which changes no result. All else is as in replay().

    Raises ValueError (TraceError for the trace), PolicyError, RunError as replay() does; ValueError where requests wait
    for others and so have no rate. After Ctrl-C returns what has finished.
    """
    chosen = (settings or Settings()).with_(**changes)
    wanted = _objectives(slo, chosen)
    attain = ATTAIN if wanted.attain is None else wanted.attain
    chosen = chosen.with_(slo=str(replace(wanted, attain=None)) or None)
    for name in ("rate", "load"):
        if getattr(chosen, name) is not None:
            raise ValueError(f"{name}={getattr(chosen, name):g}: the load is what is looked for; leave {name} out")
    if not 0 < lowest < highest < float("inf"):
        raise ValueError(f"lowest={lowest:g}, highest={highest:g}: loads must satisfy 0 < lowest < highest")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance:g} must be above 0 and below 1; 0.02 is 2 %")
    specs = told_apart([PolicySpec.of(one) for one in (policy if isinstance(policy, list | tuple) else [policy])])
    given = router if isinstance(router, list | tuple) else [router]
    routers = [None if one is None else RouterSpec.of(one) for one in given]
    if not specs or not routers:
        raise ValueError("give at least one policy, and of routers at least one or none at all")
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds {numbers}: give at least one, and each once")
    labels = check(specs, [chosen.with_(router=one) if one else chosen for one in routers])
    source = _source(trace, synth, reading, resample=resample, num_requests=num_requests, seeds=max(numbers) + 1)
    typical = source.typical()
    _check(typical, chosen, wanted)
    sustained = sustained_rate(typical, chosen)
    rows = [(one, spec) for one in routers for spec in specs]
    tasks = [
        Task(
            source=source, label=label, spec=spec, router=one, settings=chosen, seed=seed, slo=wanted, attain=attain,
            sustained=sustained, lowest=lowest, highest=highest, steps=STEPS, tolerance=tolerance, cut_short=cut_short,
        )
        for seed in numbers
        for label, (one, spec) in zip(labels, rows, strict=True)
    ]  # fmt: skip
    result = Capacity(
        slo=str(replace(wanted, attain=attain)), attain=attain, sustained_rps=sustained, labels=labels, seeds=numbers,
        lowest=lowest, highest=highest, tolerance=tolerance, resampled=source.words,
        samples=source.samples(max(numbers) + 1), requests=source.jobs,
        reading=[] if typical.reading is None else typical.reading.lines(), planned=len(tasks),
    )  # fmt: skip
    result.more = lambda loads: each(Attained(loads), tasks, jobs, progress, "curves")
    found = each(looked_for, tasks, jobs, progress, "searches")
    with closing(found):
        try:
            for one_found in found:
                result.found.append(one_found)
        except KeyboardInterrupt:
            return result
    if curve:
        result.curve()
    return result


def _objectives(slo: str | Slo | None, settings: Settings) -> Slo:
    if slo is not None and settings.slo is not None:
        raise ValueError(f"slo={slo!s} and settings with slo={settings.slo}: give one of the two")
    return Slo.parse(slo) if slo is not None else settings.objectives


def _source(trace: Any, synth: Any, reading: Mapping[str, Any] | None, **how: Any) -> SeedSource:
    if isinstance(trace, str | Path):
        trace = read_trace(trace, rate=1.0, **dict(reading or {}))
    if trace is None or isinstance(trace, Trace):
        return source_of(trace, synth, **how)
    if synth is not None:
        raise ValueError(ONE_OF_THE_TWO)
    source: SeedSource = trace
    return source


def _check(trace: Trace, settings: Settings, slo: Slo) -> None:
    if settings.waits(trace):
        paced = [name for name in ("sessions", "program_rate") if getattr(settings, name) is not None]
        why = f"{paced[0]} says when programs come" if paced else (
            f"requests of {trace.name!r} come when others have been answered"
        )  # fmt: skip
        raise ValueError(
            f"{why}, so there is no load to look for. Of a closed loop try numbers of programs at once: python -m sim "
            "sweep --sessions 1,2,4,8 --slo ...; or replay the recorded arrivals with --open-loop"
        )
    if len(trace) < 2:
        raise ValueError("one request has no rate, so there is no load to look for: give two or more")
    if slo == Slo(attain=slo.attain) and targets_of(trace) is None:
        raise ValueError(
            f"no objective: requests of {trace.name!r} bring none of their own; give some as slo ttft=1s,tpot=0.1s "
            "(e2e=30s: from arrival to end)"
        )
