"""The result as one JSON object, with the keys of `vllm bench serve` where it has them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from fastserve.bench.metrics import Selection, client_metrics, details
from fastserve.bench.result import LATE_NS, Result
from fastserve.formats import stamp
from fastserve.json_values import plain

ARRIVAL = {
    "closed": "when a slot became free",
    "sessions": "when what it waits for had been answered and the think time was over",
    "open": "when the schedule says",
    "capped": "when the schedule says",
}
"""By loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Metadata of a run."""

    api: str
    label: str | None = None
    model: str | None = None
    tokenizer: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    request_rate: float = math.inf
    burstiness: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings: the trace, the seed, how output lengths were requested."""
    exact: bool = False
    """Whether outputs were requested with exact lengths."""


def as_document(result: Result, about: About, chosen: Selection, *, detailed: bool = False) -> dict[str, Any]:
    """vLLM's keys at the top; ours beside them: `loop`, `late`, `dispatch_lag_ms`, `from_arrival`, `settings` ...

    Times at the top level count from the send, those under `from_arrival` from the intended arrival. JSON types only.
    """
    lags = result.lags_ms()
    p50, p99 = np.percentile(lags, (50, 99)) if len(lags) else (None, None)
    errors: dict[str, int] = {}
    for sample in result.samples:
        if sample.reply.error:
            errors[sample.reply.error] = errors.get(sample.reply.error, 0) + 1
    found: dict[str, Any] = {
        **stamp("bench"),
        "date": datetime.fromtimestamp(result.date).strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": about.api,
        "backend": about.api,
        "label": about.label,
        "model_id": about.model,
        "tokenizer_id": about.tokenizer,
        "num_prompts": result.planned,
        **about.metadata,
        "request_rate": about.request_rate if math.isfinite(about.request_rate) else "inf",
        "burstiness": about.burstiness,
        "max_concurrency": result.max_concurrency,
        **client_metrics(result, chosen),
        "loop": result.loop,
        "arrival_is": ARRIVAL[result.loop],
        "interrupted": result.interrupted,
        "not_sent": result.planned - len(result.samples) - result.abandoned,
        "late": result.late,
        "dispatch_lag_ms": {
            "p50": p50,
            "p99": p99,
            "max": lags.max() if len(lags) else None,
            "limit_p99": LATE_NS / 1e6,
        },
        "from_arrival": result.summary(chosen.slo),
        "counts": counts(result, about.exact),
        "failures": dict(sorted(errors.items(), key=lambda item: -item[1])[:20]),
        "settings": dict(about.settings),
    }
    if detailed:
        found |= details(result)
    return {name: plain(value) for name, value in found.items()}


def counts(result: Result, exact: bool) -> dict[str, Any]:
    """Source of token counts, and how many completed requests have another length than requested."""
    done = result.completed
    counted = sum([sample.reply.output_tokens is not None for sample in done])
    return {
        "output_tokens_by": "server" if counted == len(done) else "events" if not counted else "server, else events",
        "wrong_outputs": sum([sample.reply.tokens != sample.call.request.output for sample in done]) if exact else None,
        "wrong_prompts": sum([sample.reply.prompt_tokens not in (None, sample.call.request.prompt) for sample in done]),
        "preemptions_by": "server" if result.knows_preemptions else None,
    }


def file_name(result: Result, about: About) -> str:
    """{label or api}-{rate}qps[-concurrencyN]-{model}-{date}-{time}.json"""
    many = "" if result.max_concurrency is None else f"-concurrency{result.max_concurrency}"
    model = (about.model or "model").rstrip("/").rpartition("/")[2]
    date = datetime.fromtimestamp(result.date).strftime("%Y%m%d-%H%M%S")
    name = f"{about.label or about.api}-{about.request_rate:.4g}qps{many}-{model}-{date}.json"
    return re.sub(r"[^\w.+=-]+", "_", name)
