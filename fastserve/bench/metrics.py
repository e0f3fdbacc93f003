"""Metrics of `vllm bench serve`, with its keys and definitions: from the send, over completed requests.

A truncated request is not completed here (vLLM counts it): one that was cut short is not one that was quick.
ttft: first event - send. e2el: last event - send. tpot: (e2el - ttft) / (tokens - 1), for two tokens and more.
itl: gaps between events, pooled. Percentiles interpolate linearly. All rates are over `duration`: from
the start of the schedule to the last end, drain included. Our own metrics are in Result.summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastserve.bench.metric_names import QUEUED
from fastserve.bench.result import Result, Sample
from fastserve.metrics.summary import Slo

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Metrics to report. goodput: metric -> limit in ms."""

    metrics: tuple[str, ...] = ("ttft", "tpot", "itl", "e2el")
    percentiles: tuple[float, ...] = (99.0,)
    goodput: Mapping[str, float] | None = None

    @property
    def slo(self) -> Slo:
        """The same objectives, for measures from intended arrivals."""
        limits = self.goodput or {}
        return Slo(**{f"{name.replace('e2el', 'e2e')}_s": ms / 1e3 for name, ms in limits.items()})


def limits_of(slo: Slo) -> dict[str, float]:
    """Selection.goodput of these objectives: metric -> limit in ms."""
    limits = {"ttft": slo.ttft_s, "tpot": slo.tpot_s, "e2el": slo.e2e_s}
    return {name: limit * 1e3 for name, limit in limits.items() if limit is not None}


def client_metrics(result: Result, chosen: Selection) -> dict[str, Any]:
    """Counts, rates, and mean_, median_, std_ and pXX_ of each chosen metric in ms; None where there is no value."""
    done = result.completed
    seconds = result.duration_s
    inputs = sum([_prompt(sample) for sample in done])
    outputs = sum([sample.reply.tokens for sample in done])

    def rate(count: float) -> float | None:
        return count / seconds if seconds > 0 else None

    found: dict[str, Any] = {
        "duration": seconds,
        "completed": len(done),
        "truncated": (cut := len(result.truncated)),
        "failed": len(result.samples) - len(done) - cut,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_offered": rate(len(result.samples)),
        "request_throughput": rate(len(done)),
        "request_goodput": rate(_good(done, chosen.goodput)) if chosen.goodput else None,
        "output_throughput": rate(outputs),
        "total_token_throughput": rate(inputs + outputs),
        "max_output_tokens_per_s": _peak_tokens_per_s(result),
        "max_concurrent_requests": _peak_concurrency(result),
    }
    values = _values(result, done)
    for name in chosen.metrics:
        if name in QUEUED and result.max_concurrency is None:
            continue
        ms = values[name]
        some = len(ms) > 0
        found[f"mean_{name}_ms"] = float(ms.mean()) if some else None
        found[f"median_{name}_ms"] = float(np.median(ms)) if some else None
        found[f"std_{name}_ms"] = float(ms.std()) if some else None
        for percent in chosen.percentiles:
            found[f"p{percent:g}_{name}_ms"] = float(np.percentile(ms, percent)) if some else None
    return found


def details(result: Result) -> dict[str, list[Any]]:
    """The lists of --save-detailed, one entry for each request sent; seconds; None for a request without a value."""
    samples = result.samples
    return {
        "input_lens": [_prompt(sample) for sample in samples],
        "output_lens": [sample.reply.tokens for sample in samples],
        "ttfts": [_ttft(sample) for sample in samples],
        "itls": [_gaps(sample).tolist() for sample in samples],
        "start_times": [(sample.reply.sent - result.started) / 1e9 for sample in samples],
        "latencies": [_latency(sample) if sample.reply.completed else None for sample in samples],
        "queue_times": [(sample.reply.sent - _due(result, sample)) / 1e9 for sample in samples],
        "generated_texts": ["".join(sample.reply.text or ()) for sample in samples],
        "errors": [sample.reply.error for sample in samples],
    }


def _values(result: Result, done: Sequence[Sample]) -> dict[str, Floats]:
    """Every metric of completed requests, in ms."""
    queue = [(sample.reply.sent - _due(result, sample)) / 1e9 for sample in done]
    latency = [_latency(sample) for sample in done]
    gaps = [_gaps(sample) for sample in done]
    seconds = {
        "ttft": np.array([value for sample in done if (value := _ttft(sample)) is not None], float),
        "tpot": np.array([value for sample in done if (value := _tpot(sample)) is not None], float),
        "itl": np.concatenate(gaps) if gaps else np.empty(0),
        "e2el": np.array(latency, float),
        "client_queue_time": np.array(queue, float),
        "e2el_including_client_queue": np.array(latency, float) + np.array(queue, float),
    }
    return {name: 1e3 * values for name, values in seconds.items()}


def _prompt(sample: Sample) -> int:
    counted = sample.reply.prompt_tokens
    return sample.call.request.prompt if counted is None else counted


def _due(result: Result, sample: Sample) -> int:
    return result.started + sample.call.due


def _latency(sample: Sample) -> float:
    return (sample.last - sample.reply.sent) / 1e9


def _ttft(sample: Sample) -> float | None:
    return None if sample.first is None else (sample.first - sample.reply.sent) / 1e9


def _tpot(sample: Sample) -> float | None:
    ttft = _ttft(sample)
    if ttft is None or sample.reply.tokens < 2 or not sample.reply.streamed:
        return None
    return (_latency(sample) - ttft) / (sample.reply.tokens - 1)


def _gaps(sample: Sample) -> Floats:
    stamps = np.frombuffer(sample.reply.stamps, np.int64)
    return (stamps[1:] - stamps[:-1]) / 1e9


def _good(done: Sequence[Sample], limits: Mapping[str, float]) -> int:
    """Requests that met all limits; one token has a TPOT of 0 here."""
    count = 0
    for sample in done:
        ms = {"ttft": _ttft(sample) or 0.0, "tpot": _tpot(sample) or 0.0, "e2el": _latency(sample)}
        count += all(ms[name] * 1e3 <= limit for name, limit in limits.items())
    return count


def _peak_tokens_per_s(result: Result) -> float | None:
    """Peak output tokens in one second of the run; a response's tokens are spread evenly over its events."""
    stamps, weights = [], []
    for sample in result.completed:
        events = np.frombuffer(sample.reply.stamps, np.int64)
        if len(events):
            stamps.append((events - result.started) // 1_000_000_000)
            weights.append(np.full(len(events), sample.reply.tokens / len(events)))
    if not stamps:
        return None
    return float(np.bincount(np.concatenate(stamps), np.concatenate(weights)).max())


def _peak_concurrency(result: Result) -> int:
    """Peak number of requests in flight."""
    starts = np.array([sample.reply.sent for sample in result.samples], np.int64)
    ends = np.array([sample.last for sample in result.samples], np.int64)
    moments = np.concatenate((ends, starts))  # at equal times, ends first
    order = np.argsort(moments, kind="stable")
    return int(np.cumsum(np.where(order < len(ends), -1, 1)).max(initial=0))
