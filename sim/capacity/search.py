"""Looks for the largest rate at which a run meets an objective: runs at several rates, each made once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fastserve.metrics.summary import largest_rate
from fastserve.workload import Trace
from sim.capacity.stop import EarlyStop, Objective
from sim.cluster.cluster import Cluster
from sim.report.run import Run
from sim.world import World

Observe = Callable[[World | Cluster, Trace, float], None]
"""Told of a run before it begins, of its trace, and of its warm-up in s."""
RunAt = Callable[[float, Observe | None], Run]
"""The run at a rate."""
Measures = Mapping[str, Callable[[Run], float | None]]
Aim = Callable[[Trace], Objective]
"""What a run of a trace has to meet."""


class Tried(NamedTuple):
    """A run at one rate. values: of each measure; None where nothing can be said: it was cut short, or collapsed."""

    rate: float
    values: dict[str, float | None]
    cut: bool
    collapsed: bool


class Largest(NamedTuple):
    """rate: None where the lowest rate fails already. censored: it is the highest rate, and nothing up to it fails."""

    rate: float | None
    censored: bool


@dataclass
class Search:
    """run: see RunAt. measures: by name, what must not exceed an objective. aim: ends runs that are certain to miss all
    of it early, which changes no result; None: all run to their ends.
    """

    run: RunAt
    measures: Measures
    aim: Aim | None = None
    tried: dict[float, Tried] = field(default_factory=dict)

    def at(self, rate: float) -> Tried:
        """A run that has collapsed exceeds every objective. Raises KeyboardInterrupt where Ctrl-C ended the run."""
        if rate not in self.tried:
            done, cut = self._tried(rate)
            collapsed = bool(done.summary["collapsed"])
            failed = cut or collapsed
            values = {name: None if failed else of(done) for name, of in self.measures.items()}
            self.tried[rate] = Tried(rate, values, cut, collapsed)
        return self.tried[rate]

    def largest(self, name: str, objective: float, low: float, high: float, *, steps: int, tolerance: float) -> Largest:
        """The rate up to which the measure `name` stays within the objective, as metrics.largest_rate() has it: of a
        measure that comes back within it at higher rates, the first crossing.
        """
        found = largest_rate(
            lambda rate: self.at(rate).values[name], objective, low, high, steps=steps, tolerance=tolerance
        )
        return Largest(high, True) if found == math.inf else Largest(found, False)

    @property
    def cut(self) -> int:
        return sum(tried.cut for tried in self.tried.values())

    def _tried(self, rate: float) -> tuple[Run, bool]:
        stops: list[EarlyStop] = []
        aim = self.aim

        def observe(run: World | Cluster, trace: Trace, warmup: float) -> None:
            assert aim is not None
            stops.append(EarlyStop(run, trace, aim(trace), warmup))

        done = self.run(rate, None if aim is None else observe)
        cut = any(stop.stopped for stop in stops)
        if done.settings.get("interrupted") and not cut:
            raise KeyboardInterrupt
        return done, cut
