"""Telemetry: the gateway's Prometheus metrics, by upstream; nothing of a client's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fastserve.gateway.upstream import Upstream
from fastserve.gateway.upstreams import Upstreams

FIRSTS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)

COUNTERS = {
    "requests": "Requests sent to it",
    "errors": "Requests that it did not serve to the end",
    "retries": "Requests that were sent again, here or elsewhere, after it had failed them",
    "cooldowns": "Times for which it was left alone after a failure",
    "tokens": "Output tokens of its answers, as their usage says, else events",
}


class Telemetry:
    """text(): a page of metrics. registry: for parts that have metrics of their own."""

    def __init__(self, upstreams: Upstreams) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Upstreams(upstreams))
        self.first = Histogram(
            "fastserve_gateway_first_byte_seconds", "From sending a request to the head of its answer", ["upstream"],
            buckets=FIRSTS, registry=self.registry,
        )  # fmt: skip
        upstreams.on_removed.append(self._removed)

    def first_byte(self, upstream: Upstream, seconds: float) -> None:
        self.first.labels(upstream.name).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _removed(self, upstream: Upstream) -> None:
        with contextlib.suppress(KeyError):
            self.first.remove(upstream.name)


class _Upstreams(Collector):
    def __init__(self, upstreams: Upstreams) -> None:
        self.upstreams = upstreams

    def collect(self) -> Iterator[Metric]:
        for name, about in COUNTERS.items():
            counter = CounterMetricFamily(f"fastserve_gateway_upstream_{name}", about, labels=["upstream"])
            for each in self.upstreams:
                counter.add_metric([each.name], getattr(each.counts, name))
            yield counter
        gauges: dict[str, tuple[str, Callable[[Upstream], Any]]] = {
            "in_flight": ("Requests there that have not ended", lambda each: each.outstanding),
            "up": ("Whether it takes requests", lambda each: each.state == "healthy"),
            "weight": ("Its weight", lambda each: each.weight),
        }
        for name, (about, value) in gauges.items():
            gauge = GaugeMetricFamily(f"fastserve_gateway_upstream_{name}", about, labels=["upstream"])
            for each in self.upstreams:
                gauge.add_metric([each.name], value(each))
            yield gauge
