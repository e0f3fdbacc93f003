"""CacheMetrics: the cache's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

COUNTERS = {
    "hits": "Requests that were answered from the cache",
    "misses": "Requests that were not, though their answers may be kept",
    "bypassed": "Requests whose answers are not kept",
    "stored": "Answers that were kept",
    "dropped": "Answers that were not kept because the store was behind",
    "errors": "Calls of the store that failed or took too long",
}
GAUGES = {"entries": "Answers that are kept", "bytes": "Their size in the store"}


class CacheMetrics(Collector):
    """status: of the stage."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self.status = status

    def collect(self) -> Iterator[Metric]:
        now = self.status()
        for name, about in COUNTERS.items():
            yield CounterMetricFamily(f"fastserve_gateway_cache_{name}", about, value=now[name])
        for name, about in GAUGES.items():
            yield GaugeMetricFamily(f"fastserve_gateway_cache_{name}", about, value=now[name])
