"""Case: workload, policy, settings and seed of one run. Row: its result. Point: rows over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fastserve.json_values import plain
from fastserve.metrics.intervals import Ratio, paired_ratio
from fastserve.metrics.programs import completed_times, paired_times
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace, read_trace, synthesise
from fastserve.workload.programs import repeated
from fastserve.workload.seeds import SeedSource, source_of
from fastserve.workload.synthesis import CALIBRATION
from sim.capacity import Aim, Observe, Search
from sim.prepared import Prepared
from sim.report.run import Run
from sim.run import run_one
from sim.settings import Settings
from sim.sustained import sustained_rate

TIMES = "program_times"
"""Where the numbers of a case have the time of each program that was completed, by name, s."""

At = dict[str, str | int | float]
Numbers = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Synthetic requests, or those of a trace. A seed draws a synthetic trace, and resamples a file in blocks."""

    requests: int
    """number of requests; of a file: the first ones"""
    arrivals: str = "poisson"
    """arrival process, if synthetic"""
    lengths: str = "profile:sharegpt"
    """distribution of lengths, if synthetic"""
    prompt: str | None = None
    """distribution of prompt lengths, if another"""
    output: str | None = None
    """distribution of output lengths, if another"""
    path: str = ""
    """a trace file or a folder, instead of a synthetic trace"""
    synth: str = ""
    """a recipe as `python -m sim --synth` takes it, instead of all of these"""
    copies: int = 1
    """of a trace of programs: each so many times, under a name of its own"""
    digest: str = ""
    """digest of the file's contents, so that a run-id depends on them"""
    ratio: float | None = None
    """mean prompt over mean output, to which synthetic lengths are scaled; their mean total is kept"""

    def trace(self, rate: float, seed: int) -> Trace:
        """The requests at `rate` requests/s. Raises TraceError."""
        if self.path:
            return self._file().at_rate(rate).trace(seed)
        return self._drawn(self.requests, rate, self.arrivals, seed)

    def programs(self, seed: int) -> Trace:
        """The requests as they stand, for settings that say when programs come. Raises TraceError."""
        return _programs(self.path, self.requests, self.synth, self.copies, seed)

    @property
    def samples(self) -> int | None:
        """Independent samples behind its seeds, see paired_ratio()."""
        return self._file().samples(1) if self.path else None

    def _file(self) -> SeedSource:
        return _source(self.path, self.requests, self.synth)

    def sustained_rate(self, settings: Settings) -> float:
        """Throughput that fcfs sustains, requests/s: the unit of load."""
        if self.path:
            return sustained_rate(_read(self.path, self.requests), settings)
        return sustained_rate(self._drawn(CALIBRATION, 1.0, "poisson", 0), settings)

    def _drawn(self, n: int, rate: float, arrivals: str, seed: int) -> Trace:
        trace = synthesise(
            n, rate=rate, arrivals=arrivals, lengths=self.lengths, prompt=self.prompt, output=self.output, seed=seed
        )
        if self.ratio is None:
            return trace
        usual = synthesise(CALIBRATION, rate=1.0, lengths=self.lengths, prompt=self.prompt, output=self.output)
        prompt, output = float(usual.prompt.mean()), float(usual.output.mean())
        mean = (prompt + output) / (1 + self.ratio)
        return replace(
            trace,
            prompt=np.maximum(np.rint(trace.prompt * (mean * self.ratio / prompt)), 1).astype(np.int64),
            output=np.maximum(np.rint(trace.output * (mean / output)), 1).astype(np.int64),
        )


def _source(path: str, requests: int, synth: str) -> SeedSource:
    return source_of(None, synth) if synth else source_of(_read(path, requests))


@lru_cache(maxsize=2)
def _programs(path: str, requests: int, synth: str, copies: int, seed: int) -> Trace:
    """Kept, so that the runs of one trace that follow each other have in common what is made of it."""
    return repeated(_source(path, requests, synth).trace(seed), copies)


_prepared = Prepared()
"""Of the runs of this process."""


@lru_cache(maxsize=4)
def _read(path: str, requests: int) -> Trace:
    return read_trace(path, rate=1.0).head(requests)


def recorded(path: Path, requests: int, copies: int = 1) -> Workload:
    """The first `requests` of a trace file. Raises TraceError or FileNotFoundError."""
    trace = _read(str(path), requests)
    return Workload(requests=len(trace), path=str(path), digest=trace.digest(), lengths="", copies=copies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run: a workload under a policy, a seed. `at`: the coordinates of its row."""

    at: At
    workload: Workload
    settings: Settings
    policy: PolicySpec = field(default_factory=lambda: PolicySpec("fcfs"))
    seed: int = 0
    warmup: float = 0.0
    """share of the first requests that are excluded from measures"""
    options: dict[str, Any] = field(default_factory=dict)
    """additional arguments of the experiment's own run()"""

    @property
    def paced(self) -> bool:
        """Whether the settings say when programs come, so that there is no rate of requests."""
        return self.settings.sessions is not None or self.settings.program_rate is not None

    @property
    def rate(self) -> float:
        """Requests/s: the settings' own rate, or their load in units of the sustained rate."""
        if self.settings.rate is not None:
            return self.settings.rate
        if self.settings.load is None:
            raise ValueError(f"case {self.at} gives neither a rate nor a load")
        return self.settings.load * self.workload.sustained_rate(self.settings)


@dataclass(frozen=True, slots=True)
class Row:
    """The result of a case. numbers: the summary of its run (fastserve.metrics), or what run() returned."""

    at: At
    seed: int
    numbers: Numbers


def replayed(case: Case, rate: float | None = None, observe: Observe | None = None) -> Run:
    """The run of a case, its records included.

    rate: overrides the case's; paced programs have none. observe: called before the run with the world, its trace, and
    the warm-up in s.
    """
    if case.paced:
        programs = case.workload.programs(case.seed)
        seeing = None if observe is None else lambda world: observe(world, programs, 0.0)
        return run_one(programs, case.policy, case.settings, case.seed, observe=seeing, prepared=_prepared)
    rate = rate or case.rate
    warmup = case.warmup * case.workload.requests / rate
    settings = case.settings.with_(rate=None, load=None, warmup=warmup)
    trace = case.workload.trace(rate, case.seed)
    looking = None if observe is None else lambda world: observe(world, trace, warmup)
    return run_one(trace, case.policy, settings, case.seed, observe=looking)


def simulate(case: Case) -> Numbers:
    """The summary of the run, with its rate and load; of paced programs, which have none, with their times by name."""
    if case.paced:
        run = replayed(case)
        assert run.programs is not None
        more = {"rate": None, "load": None, "samples": case.workload.samples, TIMES: completed_times(run.programs)}
        return dict(run.summary) | more
    rate = case.rate
    numbers = dict(replayed(case, rate).summary)
    numbers["rate"], numbers["load"] = rate, rate / case.workload.sustained_rate(case.settings)
    numbers["samples"] = case.workload.samples
    return numbers


def search(
    case: Case, measures: Mapping[str, Callable[[Run], float | None]], objective: float, aim: Aim | None = None
) -> Numbers:
    """The first rate at which each measure exceeds its objective, by bisection on one seed.

    aim: what a run that exceeds every objective is certain to miss; it is then stopped early, which changes no result.
    options: highest and lowest, in units of the sustained rate, and tolerance, relative.
    NAME_rate is None where the lowest rate already fails; NAME_censored: not even the highest does, and
    NAME_rate is that rate.
    """
    sustained = case.workload.sustained_rate(case.settings)
    low, high = case.options.get("lowest", 0.4) * sustained, case.options["highest"] * sustained
    runs = Search(lambda rate, observe: replayed(case, rate, observe), measures, aim)
    found: Numbers = {"sustained_rps": sustained}
    for name in measures:
        largest = runs.largest(name, objective, low, high, steps=6, tolerance=case.options["tolerance"])
        found[f"{name}_rate"], found[f"{name}_censored"] = largest
    found["runs"], found["cut_short"] = len(runs.tried), runs.cut
    return found


def status(numbers: Numbers) -> str:
    """Outcome of a run: "ok", "saturated" or "collapsed".

    Collapsed: it exceeded its bound of live jobs at a load below 1, which fcfs sustains. Saturated: its queue grew to
    the end, or it exceeded the bound at a load of 1 or more.
    """
    if numbers.get("collapsed"):
        return "collapsed" if (numbers.get("load") or 0.0) < 1 else "saturated"
    return "saturated" if numbers.get("saturated") else "ok"


@dataclass(frozen=True, slots=True)
class Point:
    """Rows that differ only in their seed."""

    at: At
    rows: tuple[Row, ...]

    def values(self, measure: str) -> list[float]:
        """One per seed, in order of seeds; those without a value are left out."""
        return [float(row.numbers[measure]) for row in self.rows if row.numbers.get(measure) is not None]

    def mean(self, measure: str) -> float:
        """Over the seeds; NaN where none has a value."""
        values = self.values(measure)
        return float(np.mean(values)) if values else float("nan")

    def spread(self, measure: str) -> tuple[float, float]:
        """Smallest and largest seed."""
        values = self.values(measure) or [float("nan")]
        return min(values), max(values)

    @property
    def status(self) -> str:
        """The worst status of its seeds."""
        found = {status(row.numbers) for row in self.rows}
        return next((word for word in ("collapsed", "saturated") if word in found), "ok")


def points(rows: Iterable[Row], **where: str | int | float) -> list[Point]:
    """Rows grouped over their seeds, in order of appearance; only those whose coordinates are as in `where`."""
    groups: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    for row in rows:
        if all(row.at.get(name) == value for name, value in where.items()):
            groups.setdefault(tuple(row.at.items()), []).append(row)
    return [Point(dict(key), tuple(sorted(group, key=lambda row: row.seed))) for key, group in groups.items()]


def point(rows: Iterable[Row], **where: str | int | float) -> Point:
    """The only point with these coordinates. Raises KeyError when there is none or more than one."""
    found = points(rows, **where)
    if len(found) != 1:
        raise KeyError(f"{len(found)} points are at {where}, where there should be one")
    return found[0]


def ratio(base: Point, other: Point, measure: str) -> Ratio | None:
    """Mean of base over mean of other, paired by seed, with its interval; above 1 where `other` is the smaller."""
    mine = {row.seed: row.numbers.get(measure) for row in other.rows}
    pairs = [(row.numbers.get(measure), mine.get(row.seed)) for row in base.rows]
    both = [(float(a), float(b)) for a, b in pairs if a and b and np.isfinite(a) and np.isfinite(b)]
    samples = base.rows[0].numbers.get("samples")
    return paired_ratio([a for a, _ in both], [b for _, b in both], samples=samples) if both else None


def program_ratio(base: Point, other: Point) -> Ratio | None:
    """Mean program time of base over that of other, paired by program, with its interval over programs."""
    mine = {row.seed: row.numbers.get(TIMES) for row in other.rows}
    pairs = [(row.numbers.get(TIMES), mine.get(row.seed)) for row in base.rows]
    return paired_times([(one, two) for one, two in pairs if one is not None and two is not None])


def rate_gain(mine: Iterable[Point], base: Iterable[Point], measure: str) -> Ratio | None:
    """Rate at an objective over that of a baseline, paired by seed; the seeds of several points are pooled."""
    gains = []
    for one, other in zip(mine, base, strict=True):
        theirs = {row.seed: row.numbers.get(f"{measure}_rate") for row in other.rows}
        pairs = [(row.numbers.get(f"{measure}_rate"), theirs.get(row.seed)) for row in one.rows]
        gains += [rate / reference for rate, reference in pairs if rate and reference]
    return paired_ratio(gains, [1.0] * len(gains)) if gains else None


def mean_of(point: Point, measure: str) -> Ratio | None:
    """Mean over seeds, with its interval."""
    values = [value for value in point.values(measure) if value > 0]
    return paired_ratio(values, [1.0] * len(values)) if values else None


def to_json(value: object) -> Any:
    """Plain JSON values; a dataclass becomes a dict."""
    from dataclasses import asdict, is_dataclass

    return plain(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)
