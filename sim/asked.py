"""What is asked of a simulation, made ready: policies, routers and seeds as given in Python, the workload behind the
seeds, and that workload at the rate of its settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastserve import predictors
from fastserve.hardware import Hardware
from fastserve.policies.spec import PolicyLike, PolicySpec, check_labels
from fastserve.routers.spec import RouterLike, RouterSpec
from fastserve.workload import Synthesis, Trace, read_trace
from fastserve.workload.agents import Agents
from fastserve.workload.content import unit_of
from fastserve.workload.seeds import ONE_OF_THE_TWO, SeedSource, source_of
from fastserve.workload.session import SessionSettings
from sim.cluster.settings import FIELDS as CLUSTER
from sim.compiled import brain
from sim.parts import prepare, row
from sim.prefix_cache import decided
from sim.settings import Settings
from sim.sustained import sustained_rate


def policies(policy: PolicyLike | Sequence[PolicyLike]) -> list[PolicySpec]:
    """One or several, as specs. Raises ValueError."""
    specs = [PolicySpec.of(entry) for entry in (policy if isinstance(policy, list | tuple) else [policy])]
    if not specs:
        raise ValueError("give at least one policy")
    return specs


def routed(settings: Settings, router: RouterLike | Sequence[RouterLike] | None) -> list[Settings]:
    """The settings with each router. Raises ValueError."""
    if router is None:
        return [settings]
    given = router if isinstance(router, list | tuple) else [router]
    if not given:
        raise ValueError("give at least one router")
    return [settings.with_(router=RouterSpec.of(entry)) for entry in given]


def check(specs: Sequence[PolicySpec], variants: Sequence[Settings]) -> list[str]:
    """Validates before a run; returns the labels of the rows. variants: the settings, with each router. Raises
    ValueError or FileNotFoundError.
    """
    rows = []
    for settings in variants:
        if settings.in_cluster:
            settings.router_spec.check()
        predictors.check(settings.predictor)
        for number in range(settings.replicas):
            own = settings.of_replica(number)
            hardware = own.hardware()
            for spec in specs:
                prepare(spec, own)
                own.scheduler(spec.fresh(), hardware, longest=1, context=1)
        rows += [row(spec, settings) for spec in specs]
    check_labels(rows)
    return rows


def seed_numbers(seeds: int | Sequence[int]) -> list[int]:
    """How many, or which. Raises ValueError."""
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds {numbers}: give at least one, and each once")
    return numbers


def workload(
    trace: Trace | SeedSource | str | Path | None,
    synth: str | Synthesis | Agents | None,
    settings: Settings,
    *,
    reading: Mapping[str, Any] | None,
    num_requests: int | None,
    resample: str,
    seeds: int,
) -> SeedSource:
    """Where each seed takes its requests, see replay(). Raises ValueError, TraceError."""
    if isinstance(trace, str | Path):
        trace = read_trace(trace, rate=settings.rate or (1.0 if settings.load else None), **dict(reading or {}))
    elif reading:
        raise ValueError(f"there is no file to be read here: {', '.join(reading)} belong to read_trace()")
    if trace is None or isinstance(trace, Trace):
        return source_of(trace, synth, resample=resample, num_requests=num_requests, seeds=seeds)
    if synth is not None:
        raise ValueError(ONE_OF_THE_TWO)
    return trace


@dataclass(frozen=True, slots=True)
class Ready:
    """A workload at the rate of its settings, and these as the workload decides them."""

    source: SeedSource
    settings: Settings
    hardware: Hardware
    first: Trace
    """of the first seed"""
    sustained: float | None
    """requests/s; None where requests wait for one another, or nobody asked"""

    @property
    def rate(self) -> float | None:
        """Requests/s; None of a burst, and where requests wait for one another."""
        bounded = self.source.rate < float("inf") and not self.settings.waits(self.first)
        return self.source.rate if bounded else None

    @property
    def load(self) -> float | None:
        return None if self.rate is None or self.sustained is None else self.rate / self.sustained

    def shown(self, seeds: Sequence[int], in_cluster: bool) -> dict[str, Any]:
        """All settings, for results; not the router, which each run has for itself. in_cluster: whether it has one."""
        source, first = self.source, self.first
        shown: dict[str, Any] = {"trace": first.name} | ({} if source.recipe is None else {"synth": str(source.recipe)})
        shown |= {"brain": brain()} | self.settings.shown(self.hardware)
        shown["rate"], shown["load"] = self.rate, self.load
        if not self.settings.in_sessions(first):
            for entry in fields(SessionSettings):
                del shown[entry.name]
        shown["seeds"] = list(seeds)
        shown["resample"], shown["resampled"] = source.how, source.words
        shown["samples"] = source.samples(max(seeds) + 1)
        if first.dropped:
            shown["dropped_rows"] = dict(first.dropped)
        del shown["router"]
        if not in_cluster:
            for name in CLUSTER:
                shown.pop(name, None)
        return shown


def check_load(typical: Trace, settings: Settings) -> None:
    """Raises ValueError for a load that cannot be set."""
    if settings.load is not None and len(typical) < 2:
        raise ValueError("one request has no rate, so there is no load to set: give two or more")
    settings.hardware()
    settings.check_load(typical, settings.load)


def sustained(source: SeedSource, settings: Settings) -> float | None:
    """Requests/s that fcfs sustains of it; None where requests wait for one another. Raises ValueError, also for a load
    that cannot be set.
    """
    typical = source.typical()
    check_load(typical, settings)
    return None if settings.waits(typical) else sustained_rate(typical, settings)


def ready(source: SeedSource, settings: Settings, seed: int, most: float | None) -> Ready:
    """seed: the first. most: what sustained() says."""
    hardware = settings.hardware()
    if settings.load is not None and most is not None:
        source = source.at_rate(settings.load * most)
    elif settings.rate is not None:
        source = source.at_rate(settings.rate)
    first = source.trace(seed)
    settings = decided(settings, first)
    if settings.prefix_cache == "on" and first.hash_ids is not None:
        settings = settings.with_(prefix_tokens=unit_of(first, hardware.memory.block_tokens, settings.prefix_tokens))
    return Ready(source, settings, hardware, first, most)
