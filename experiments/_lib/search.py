"""Finds the rate at which a policy exceeds an objective, by bisection; runs that can no longer meet it are stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._lib.case import Case, Numbers, replayed
from fastserve.metrics.summary import largest_rate
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from fastserve.workload import Trace
from fastserve.workload.requests import outputs_of
from sim.report.run import Run
from sim.world import World

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], float]
EVERY = 500  # commits between two checks


class EarlyStop(Observer):
    """Stops a run once every statistic of s/token is certain to end above the objective.

    The s/token of an ended request is known; that of a live one is at least its age over its output; that of a future
    one at least 0. Means and percentiles are monotone, so over these values they are lower bounds. Exact: a run that is
    stopped would have failed.
    """

    def __init__(self, world: World, trace: Trace, start: float, statistics: Sequence[Statistic], above: float) -> None:
        self.world = world
        self.arrival = trace.arrival * 1e-9
        self.output = np.asarray(outputs_of(trace), dtype=np.float64)
        self.measured = self.arrival >= self.arrival[0] + start
        self.took: Floats = np.full(len(self.output), np.nan)
        self.statistics = statistics
        self.above = above * (1 + 1e-9)
        self.commits = 0
        self.stopped = False

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        for job in finished:
            self.took[job.id] = (now * 1e-9 - self.arrival[job.id]) / self.output[job.id]
        self.commits += 1
        if self.commits % EVERY == 0 and not self.stopped and self.certain_to_fail(now):
            self.stopped = self.world.stopped = True

    def rejected(self, job: Job, now: int, why: str) -> None:
        self.measured[job.id] = False

    def cancelled(self, job: Job, now: int) -> None:
        self.measured[job.id] = False

    def certain_to_fail(self, now: int) -> bool:
        """now: ns."""
        alive = np.maximum(now * 1e-9 - self.arrival, 0.0) / self.output
        least = np.where(np.isnan(self.took), alive, self.took)[self.measured]
        return all(statistic(least) > self.above for statistic in self.statistics)


def search(
    case: Case,
    measures: Mapping[str, Callable[[Run], float | None]],
    objective: float,
    statistics: Sequence[Statistic] = (),
) -> Numbers:
    """The first rate at which each measure exceeds its objective, by bisection on one seed.

    statistics: if all measures are statistics of s/token, these; a run that is certain to fail them all is then stopped
    early, which changes no result.
    options: highest and lowest, in units of the sustained rate, and tolerance, relative. A collapsed run exceeds it.
    NAME_rate is None where the lowest rate already fails; NAME_censored: not even the highest does, and
    NAME_rate is that rate.
    """
    sustained = case.workload.sustained_rate(case.settings)
    known: dict[float, dict[str, float | None]] = {}
    cut = 0

    def measured(rate: float) -> dict[str, float | None]:
        nonlocal cut
        if rate not in known:
            stops: list[EarlyStop] = []

            def observe(world: World, trace: Trace, warmup: float) -> None:
                stops.append(EarlyStop(world, trace, warmup, statistics, objective))
                world.attach(stops[0])

            done = replayed(case, rate, observe if statistics else None)
            stopped = any(stop.stopped for stop in stops)
            cut += stopped
            failed = stopped or bool(done.summary["collapsed"])
            known[rate] = {name: None if failed else of(done) for name, of in measures.items()}
        return known[rate]

    lowest, highest = case.options.get("lowest", 0.4) * sustained, case.options["highest"] * sustained
    found: dict[str, Any] = {"sustained_rps": sustained}
    for name in measures:
        rate = largest_rate(
            lambda rate, name=name: measured(rate)[name],  # type: ignore[misc]
            objective,
            lowest,
            highest,
            steps=6,
            tolerance=case.options["tolerance"],
        )
        found[f"{name}_rate"] = highest if rate == math.inf else rate
        found[f"{name}_censored"] = rate == math.inf
    found["runs"], found["cut_short"] = len(known), cut
    return found
