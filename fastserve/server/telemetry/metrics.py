"""Prometheus metrics, as fastserve_* and as vllm:* so that dashboards and load generators for vLLM work."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Iterator
from itertools import pairwise

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fastserve.engine import Engine, Output
from fastserve.engine.loop import FINISHES
from fastserve.engine.request import Handle
from fastserve.engine.snapshot import Snapshot
from fastserve.sched.observer import headline
from fastserve.server.jobs.jobs import seconds
from fastserve.server.telemetry.totals import Totals

LATENCIES = (0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 240, 480, 960, 1920)
FIRSTS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
TIMES = (0, 1, 2, 3, 5, 8, 13, 21, 34)

HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": ("Arrival to the first token", FIRSTS),
    "e2e_request_latency_seconds": ("Arrival to the end", LATENCIES),
    "inter_token_latency_seconds": ("Between two tokens of a request", GAPS),
    "request_time_per_output_token_seconds": ("Mean time between tokens of a request", GAPS),
    "request_queue_time_seconds": ("Waiting before the first service and while preempted", LATENCIES),
    "request_inference_time_seconds": ("From arrival to the end, waiting left out", LATENCIES),
    "request_prompt_tokens": ("Prompt tokens of a request", TOKENS),
    "request_generation_tokens": ("Output tokens of a request", TOKENS),
    "request_num_preemptions": ("Preemptions of a request", TIMES),
}
"""vLLM has all of these under the same names."""


VLLM_REASONS = {word: (word,) for word in FINISHES if word != "truncated"} | {"length": ("length", "truncated")}
"""finished_reason of vllm:request_success -> our finish reasons: vLLM has no word for who outgrew the pool."""


class Metrics:
    """text() waits for the engine, up to one iteration: call it from a thread, not on the event loop."""

    def __init__(self, engine: Engine, model: str, totals: Totals) -> None:
        self.registry = CollectorRegistry()
        self.histograms = {
            name: Histogram(f"fastserve_{name}", about, buckets=buckets, registry=None)
            for name, (about, buckets) in HISTOGRAMS.items()
        }
        self.registry.register(_Collector(engine, model, totals, self.histograms))

    def ended(self, output: Output, handle: Handle) -> None:
        """Observes one request that has ended."""
        record = output.record
        queued = (seconds(record.get("queued")) or 0.0) + (seconds(record.get("preempted")) or 0.0)
        jct = seconds(record.get("jct_from_arrival"))
        for name, value in (
            ("time_to_first_token_seconds", seconds(record.get("ttft"))),
            ("e2e_request_latency_seconds", jct),
            ("request_time_per_output_token_seconds", seconds(record.get("tpot_excl_first"))),
            ("request_queue_time_seconds", None if jct is None else queued),
            ("request_inference_time_seconds", None if jct is None else max(0.0, jct - queued)),
            ("request_prompt_tokens", len(output.prompt_token_ids)),
            ("request_generation_tokens", len(output.token_ids)),
            ("request_num_preemptions", int(record.get("preemptions", 0))),
        ):
            if value is not None:
                self.histograms[name].observe(value)
        observe = self.histograms["inter_token_latency_seconds"].observe
        for before, after in pairwise([piece.at_ns for piece in handle if piece.token_id is not None]):
            observe((after - before) / 1e9)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class _Collector(Collector):
    def __init__(self, engine: Engine, model: str, totals: Totals, histograms: dict[str, Histogram]) -> None:
        self.engine = engine
        self.totals = totals
        self.histograms = histograms
        self.labels = {"model_name": model, "engine": "0"}

    def describe(self) -> Iterable[Metric]:
        return []  # otherwise the registry collects at registration

    def collect(self) -> Iterator[Metric]:
        snapshot = self.engine.snapshot()
        counters = snapshot.counters
        hits = self.totals.hits
        here = hits.found - self.totals.loaded
        yield from self._gauges(snapshot)
        for name, about, value in (
            ("num_preemptions", "Times that a request gave up its place", counters["preemptions"]),
            ("prompt_tokens", "Prompt tokens accepted", counters["prompt_tokens"]),
            ("generation_tokens", "Tokens generated", counters["output_tokens"]),
            ("prefix_cache_queries", "Prompt tokens that were looked for in the prefix cache", hits.asked),
            ("prefix_cache_hits", "Prompt tokens that were found there, on the device", here),
            ("external_prefix_cache_queries", "Prompt tokens that were looked for on the host", hits.asked - here),
            ("external_prefix_cache_hits", "Prompt tokens that were found there, and loaded", self.totals.loaded),
            ("spec_decode_num_drafts", "Times that guesses of a request were verified", counters["drafts"]),
            ("spec_decode_num_draft_tokens", "Guesses of tokens that were verified", counters["draft_tokens"]),
            ("spec_decode_num_accepted_tokens", "Guesses of tokens that were right", counters["accepted_tokens"]),
        ):
            yield from self._both(CounterMetricFamily(f"fastserve_{name}", about, value=value), name)
        yield CounterMetricFamily(
            "fastserve_held_seconds", "Time for which policies held requests back", value=self.totals.held
        )
        yield CounterMetricFamily("fastserve_iterations", "Iterations of the engine", value=snapshot.steps)
        yield CounterMetricFamily("fastserve_out_of_memory", "Steps the device had no room for", value=counters["oom"])
        reasons = CounterMetricFamily("fastserve_requests", "Requests that ended", labels=["finish_reason"])
        success = CounterMetricFamily(
            "vllm:request_success", "Requests that ended", labels=["model_name", "engine", "finished_reason"]
        )
        for reason in FINISHES:
            reasons.add_metric([reason], counters.get(f"finished_{reason}", 0))
        for reason, own in VLLM_REASONS.items():
            count = sum([counters.get(f"finished_{word}", 0) for word in own])
            success.add_metric([*self.labels.values(), reason], count)
        yield reasons
        yield success
        for name, histogram in self.histograms.items():
            for family in histogram.collect():
                yield from self._both(family, name)

    def _gauges(self, snapshot: Snapshot) -> Iterator[Metric]:
        device, host = snapshot.device, snapshot.host
        share = 0.0 if not device.total else (device.used + device.parked) / device.total
        for name, about, value in (
            ("num_requests_running", "Requests that hold a slot", snapshot.running),
            ("num_requests_waiting", "Requests that wait, the preempted ones too", snapshot.waiting),
            ("kv_cache_usage_perc", "Share of the device's KV pool that is taken, 0 to 1", share),
        ):
            yield from self._both(GaugeMetricFamily(f"fastserve_{name}", about, value=value), name)
        yield GaugeMetricFamily(
            "fastserve_num_requests_held", "Requests that the policy holds back", value=snapshot.held
        )
        yield GaugeMetricFamily("fastserve_slots", "Batch cap", value=snapshot.slots)
        yield GaugeMetricFamily("fastserve_copies_in_flight", "KV copies under way", value=snapshot.copies)
        yield GaugeMetricFamily(
            "fastserve_scheduler_seconds", "Scheduler's time an iteration, mean", value=snapshot.scheduler_us / 1e6
        )
        yield GaugeMetricFamily(
            "fastserve_scheduler_share", "Scheduler's share of the time of iterations", value=snapshot.scheduler_share
        )
        pools = GaugeMetricFamily("fastserve_kv_tokens", "KV held, in tokens", labels=["pool", "kind"])
        for pool, kind, tokens in (
            ("device", "used", device.used),
            ("device", "parked", device.parked),
            ("device", "idle", device.idle),
            ("host", "used", host.used),
            ("host", "copying", host.parked),
            ("host", "idle", host.idle),
        ):
            pools.add_metric([pool, kind], tokens)
        yield pools
        levels = GaugeMetricFamily("fastserve_queue_level_requests", "Live requests by queue level", labels=["level"])
        for level, jobs in sorted(Count(headline(job.level) for job in snapshot.jobs).items()):
            levels.add_metric([level], jobs)
        yield levels

    def _both(self, family: Metric, name: str) -> Iterator[Metric]:
        """A metric family under both names."""
        yield family
        alias = Metric(f"vllm:{name}", family.documentation, family.type)
        for sample in family.samples:
            own = sample.name.replace("fastserve_", "vllm:", 1)
            alias.add_sample(own, {**self.labels, **sample.labels}, sample.value)
        yield alias
