"""One run of a sweep, in any process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastserve.json_values import plain
from fastserve.metrics.summary import Columns
from fastserve.policies.spec import PolicySpec
from fastserve.routers import RouterError
from fastserve.sched.errors import PolicyError
from fastserve.workload import Trace, TraceError
from fastserve.workload.seeds import SeedSource
from sim.asked import Ready, ready, sustained
from sim.prepared import Prepared
from sim.replay import told
from sim.run import run_one
from sim.settings import Settings


class Task(NamedTuple):
    spec: PolicySpec
    settings: Settings
    seed: int
    sustained: float | str | None
    """requests/s, see asked.sustained(); or why it cannot be said"""


class Done(NamedTuple):
    numbers: dict[str, Any]
    """the summary, with rate and load"""
    told: dict[str, Any]
    """the policy's settings"""
    records: Columns | None
    failed: str = ""
    """why there are none of these"""


@dataclass(slots=True)
class Sustaining:
    """What fcfs sustains with these settings: requests/s, or why that cannot be said."""

    source: SeedSource

    def __call__(self, settings: Settings) -> float | str | None:
        try:
            return sustained(self.source, settings)
        except (TraceError, ValueError) as error:
            return str(error)


@dataclass(slots=True)
class Work:
    """first: the seed whose requests decide what the settings leave open."""

    source: SeedSource
    first: int
    keep_records: bool = False
    _prepared: Prepared = field(default_factory=Prepared)
    _ready: tuple[Settings, Ready] | None = None
    _trace: tuple[Ready, int, Trace] | None = None
    """of the run before: many are of the same requests"""

    def __call__(self, task: Task) -> Done:
        """A policy or router that breaks, and a workload that does not fit, are told and end no other run."""
        if isinstance(task.sustained, str):
            return Done({}, {}, None, task.sustained)
        try:
            return self._run(task, task.sustained)
        except (PolicyError, RouterError) as error:
            return Done({}, {}, None, told(error))
        except (TraceError, ValueError) as error:
            return Done({}, {}, None, str(error))

    def _run(self, task: Task, most: float | None) -> Done:
        made = self._at(task.settings, most)
        if self._trace is None or self._trace[0] is not made or self._trace[1] != task.seed:
            self._trace = made, task.seed, made.source.trace(task.seed)
        trace = self._trace[2]
        run = run_one(trace, task.spec, made.settings, task.seed, prepared=self._prepared)
        if run.settings.get("interrupted"):
            raise KeyboardInterrupt
        numbers = dict(run.summary) | {"rate": made.rate, "load": made.load}
        return Done(plain(numbers), plain(run.settings), run.records if self.keep_records else None)

    def _at(self, settings: Settings, most: float | None) -> Ready:
        if self._ready is None or self._ready[0] != settings:
            self._ready = settings, ready(self.source, settings, self.first, most)
        return self._ready[1]
