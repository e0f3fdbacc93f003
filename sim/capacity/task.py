"""Task: what is looked for under one policy on one seed, in any process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastserve.metrics.slo import Slo
from fastserve.metrics.summary import Summary
from fastserve.policies.spec import PolicySpec
from fastserve.routers.spec import RouterSpec
from fastserve.workload import Trace
from fastserve.workload.seeds import SeedSource
from sim.capacity.result import Found, Point
from sim.capacity.search import Observe, Search
from sim.capacity.stop import Attainment
from sim.cluster.cluster import Cluster
from sim.replay import replay
from sim.report.run import Run
from sim.settings import Settings
from sim.world import World

MISSED = "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """sustained: requests/s of load 1. lowest, highest: loads. steps: from one to the other that are tried upwards."""

    source: SeedSource
    label: str
    spec: PolicySpec
    router: RouterSpec | None
    settings: Settings
    seed: int
    slo: Slo
    attain: float
    sustained: float
    lowest: float
    highest: float
    steps: int
    tolerance: float
    cut_short: bool

    def run(self, load: float, observe: Observe | None, about: dict[str, Any]) -> Run:
        """As `python -m sim --load` has it. about: gets the settings that all runs have in common."""
        settings = self.settings.with_(load=load)

        def attach(run: World | Cluster) -> None:
            assert observe is not None
            observe(run, self.source.at_rate(load * self.sustained).trace(self.seed), settings.warmup)

        looked = None if observe is None else lambda spec, label, seed: attach
        result = replay(
            self.source, self.spec, router=self.router, seeds=[self.seed], settings=settings, processes=1,
            progress=False, observe=looked,
        )  # fmt: skip
        if not result.runs:
            raise KeyboardInterrupt
        about |= result.settings
        return result.runs[0]

    def aim(self, trace: Trace) -> Attainment:
        return Attainment(trace, self.slo, self.attain, leave=self.settings.client_timeout is not None)

    def point(self, load: float, told: Mapping[str, Any], cut: bool = False) -> Point:
        """told: the run's summary; empty where it tells nothing."""
        return Point(
            label=self.label,
            seed=self.seed,
            load=load,
            rate_rps=load * self.sustained,
            slo_attainment=told.get("slo_attainment"),
            goodput_rps=told.get("goodput_rps"),
            saturated=bool(told.get("saturated")),
            cut_short=cut,
        )


def looked_for(task: Task) -> Found:
    """The largest load of one policy and seed."""
    about: dict[str, Any] = {}
    told: dict[float, Summary] = {}
    own: dict[str, Any] = {}

    def run(load: float, observe: Observe | None) -> Run:
        done = task.run(load, observe, about)
        told[load] = done.summary
        own.update(done.settings)
        return done

    def missed(run: Run) -> float | None:
        attained = run.summary["slo_attainment"]
        return None if attained is None else -attained

    search = Search(run, {MISSED: missed}, task.aim if task.cut_short else None)
    load, censored = search.largest(
        MISSED, -task.attain, task.lowest, task.highest, steps=task.steps, tolerance=task.tolerance
    )
    tried = [
        task.point(at, {} if one.cut or one.collapsed else told[at], one.cut)
        for at, one in sorted(search.tried.items())
    ]
    bound = "below" if load is None else "at least" if censored else ""
    settings = {name: value for name, value in own.items() if name != "interrupted"}
    return Found(task.label, task.spec.name, task.seed, load, bound, tried, settings, about)


@dataclass(frozen=True, slots=True)
class Attained:
    """Runs at these loads, whole ones."""

    loads: Sequence[float]

    def __call__(self, task: Task) -> list[Point]:
        found = []
        for load in self.loads:
            run = task.run(load, None, {})
            if run.settings.get("interrupted"):
                raise KeyboardInterrupt
            found.append(task.point(load, {} if run.summary["collapsed"] else run.summary))
        return found
