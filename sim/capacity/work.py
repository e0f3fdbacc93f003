"""What is looked for under one policy on one seed, in any process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fastserve.json_values import plain
from fastserve.metrics.slo import Slo
from fastserve.policies.spec import PolicySpec
from fastserve.routers import RouterError
from fastserve.sched.errors import PolicyError
from fastserve.workload import Trace
from fastserve.workload.seeds import SeedSource
from sim.asked import Ready, ready
from sim.capacity.found import Found, Point
from sim.capacity.search import Observe, Search
from sim.capacity.stop import Attainment
from sim.prepared import Prepared
from sim.replay import RunError, told
from sim.report.run import Run
from sim.run import run_one
from sim.settings import Settings

MISSED: Final = "missed"


class Case(NamedTuple):
    """settings: with its router."""

    label: str
    spec: PolicySpec
    settings: Settings
    seed: int


class Goal(NamedTuple):
    """attain: the share of the requests that must meet their objectives. lowest, highest: loads, and `steps` from one
    to the other that are tried upwards. cut_short: whether runs that are certain to miss it are ended.
    """

    slo: Slo
    attain: float
    lowest: float
    highest: float
    steps: int
    tolerance: float
    cut_short: bool


@dataclass(slots=True)
class Work:
    """first: the seed whose requests decide what the settings leave open. sustained: requests/s of load 1."""

    source: SeedSource
    goal: Goal
    first: int
    sustained: float
    _prepared: Prepared = field(default_factory=Prepared)

    def search(self, case: Case) -> Found:
        """The largest load. Raises RunError for a policy that breaks, which may be in another process."""
        goal = self.goal
        done: dict[float, Run] = {}
        about: dict[str, Any] = {}

        def run(load: float, observe: Observe | None) -> Run:
            made = self._ready(case, load)
            found = self._run(case, made, observe)
            about.update(made.shown([case.seed], case.settings.in_cluster))
            about.update({} if self.source.recipe is None else {"synth": str(self.source.recipe)})
            done[load] = Run(found.policy, found.label, found.seed, found.settings, {}, found.summary)
            return found

        def missed(run: Run) -> float | None:
            attained = run.summary["slo_attainment"]
            return None if attained is None else -attained

        search = Search(run, {MISSED: missed}, self._aim(case) if goal.cut_short else None)
        load, censored = search.largest(
            MISSED, -goal.attain, goal.lowest, goal.highest, steps=goal.steps, tolerance=goal.tolerance
        )
        tried = [
            self._point(case, at, None if one.cut or one.collapsed else done[at], one.cut)
            for at, one in sorted(search.tried.items())
        ]
        own = {name: value for name, value in next(iter(done.values())).settings.items() if name != "interrupted"}
        bound = "below" if load is None else "at least" if censored else ""
        return Found(case.label, case.spec.name, case.seed, load, bound, tried, plain(own), plain(about))

    def at(self, case: Case, load: float) -> Point:
        """A whole run. Raises RunError."""
        run = self._run(case, self._ready(case, load), None)
        if run.settings.get("interrupted"):
            raise KeyboardInterrupt
        return self._point(case, load, None if run.summary["collapsed"] else run)

    def _ready(self, case: Case, load: float) -> Ready:
        return ready(self.source, case.settings.with_(load=load), self.first, self.sustained)

    def _run(self, case: Case, made: Ready, observe: Observe | None) -> Run:
        trace = made.source.trace(case.seed)
        attach = None if observe is None else lambda run: observe(run, trace, made.settings.warmup)
        try:
            return run_one(trace, case.spec, made.settings, case.seed, observe=attach, prepared=self._prepared)
        except (PolicyError, RouterError) as error:
            raise RunError(told(error)) from None

    def _aim(self, case: Case) -> Any:
        leave = case.settings.client_timeout is not None

        def aim(trace: Trace) -> Attainment:
            return Attainment(trace, self.goal.slo, self.goal.attain, leave)

        return aim

    def _point(self, case: Case, load: float, run: Run | None, cut: bool = False) -> Point:
        """run: None where it tells nothing."""
        known: dict[str, Any] = {} if run is None else dict(run.summary)
        return Point(
            label=case.label,
            seed=case.seed,
            load=load,
            rate_rps=load * self.sustained,
            slo_attainment=known.get("slo_attainment"),
            goodput_rps=known.get("goodput_rps"),
            saturated=bool(known.get("saturated")),
            cut_short=cut,
        )


@dataclass(slots=True)
class Searching:
    work: Work

    def __call__(self, case: Case) -> Found:
        return self.work.search(case)


@dataclass(slots=True)
class Running:
    work: Work

    def __call__(self, at: tuple[Case, float]) -> Point:
        return self.work.at(*at)
