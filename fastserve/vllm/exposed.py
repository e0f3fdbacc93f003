"""Exposed: our metrics in the registry behind vLLM's /metrics, named as those of fastserve serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from fastserve.vllm.metrics import BY_POLICY, COUNTERS, GAUGES, LEVEL, LEVELS, Told

M = TypeVar("M", Counter, Gauge)

AFTER_FAILURE = ("fcfs", "vllm")
"""Who is in charge after the policy's first failure, and after a second one."""

_registered: list[tuple[CollectorRegistry, Counter | Gauge]] = []


class Exposed:
    """policy: the label of preemptions until the policy fails. engines: vLLM's engines behind this API process."""

    def __init__(
        self, model: str, policy: str, engines: Iterable[int] = (0,), registry: CollectorRegistry = REGISTRY
    ) -> None:
        while _registered:  # an earlier server of this process
            old, collector = _registered.pop()
            old.unregister(collector)
        self.model = model
        self.policy = policy
        self.failures: dict[int, int] = {}
        self.known: dict[int, set[str]] = {}
        own = {BY_POLICY: ["policy"]}
        self.counters = {key: _counter(told, own.get(key, []), registry) for key, told in COUNTERS.items()}
        self.gauges = {key: _gauge(told, [], registry) for key, told in GAUGES.items()}
        self.levels = _gauge(LEVELS, ["level"], registry)
        for engine in engines:  # what has not happened yet shows as 0
            self.update(dict.fromkeys(GAUGES, 0), engine)

    def update(self, told: Mapping[str, int], engine: int = 0) -> None:
        """One report, as detach() gives it."""
        where = {"model_name": self.model, "engine": str(engine)}
        failed = self.failures[engine] = self.failures.get(engine, 0) + told.get("policy_failed", 0)
        policy = self.policy if not failed else AFTER_FAILURE[min(failed, len(AFTER_FAILURE)) - 1]
        for key, counter in self.counters.items():
            labels = {**where, "policy": policy} if key == BY_POLICY else where
            counter.labels(**labels).inc(told.get(key, 0) * COUNTERS[key].scale)
        if any(key in told for key in self.gauges):
            self._set_gauges(told, where, self.known.setdefault(engine, set()))

    def _set_gauges(self, told: Mapping[str, int], where: Mapping[str, str], known: set[str]) -> None:
        for key, gauge in self.gauges.items():
            gauge.labels(**where).set(told.get(key, 0))
        now = {_level(key.removeprefix(LEVEL)): jobs for key, jobs in told.items() if key.startswith(LEVEL)}
        known.update(now)
        for level in known:
            self.levels.labels(**where, level=level).set(now.get(level, 0))


def _level(word: str) -> str:
    """As fastserve serve shows it: Q3 for the level 3."""
    return f"Q{word}" if word.isdigit() else word


def _counter(told: Told, labels: list[str], registry: CollectorRegistry) -> Counter:
    counter = Counter(f"fastserve_{told.name}", told.about, ["model_name", "engine", *labels], registry=None)
    return _kept(counter, registry)


def _gauge(told: Told, labels: list[str], registry: CollectorRegistry) -> Gauge:
    gauge = Gauge(
        f"fastserve_{told.name}", told.about, ["model_name", "engine", *labels], registry=None,
        multiprocess_mode="mostrecent",
    )  # fmt: skip
    return _kept(gauge, registry)


def _kept(collector: M, registry: CollectorRegistry) -> M:
    registry.register(collector)
    _registered.append((registry, collector))
    return collector
