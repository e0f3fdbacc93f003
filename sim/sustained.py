"""The rate that fcfs just sustains: the unit of load."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from fastserve.atomic_files import OutputError, atomically
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace
from fastserve.workload.requests import outputs_of
from fastserve.workload.synthesis import CALIBRATION
from sim.cluster.settings import FIELDS as CLUSTER
from sim.report.provenance import fingerprint
from sim.run import run_one
from sim.settings import Settings

ASIDE: Final[Mapping[str, Any]] = {
    "rate": None, "load": None, "warmup": 0.0, "max_backlog": None, "predictor": "none", "prefix_cache": "off",
    "slo": None,
}  # fmt: skip
"""Settings that change nothing of what is sustained."""


def sustained_rate(trace: Trace, settings: Settings) -> float:
    """Requests/s of one machine, as machine_rate() has it; of a cluster the sum over its replicas."""
    if not settings.in_cluster:
        return machine_rate(trace, settings)
    each = [settings.of_replica(number) for number in range(settings.replicas)]
    return sum([machine_rate(trace, own) for own in each])


def machine_rate(trace: Trace, settings: Settings) -> float:
    """Saturated fcfs throughput in requests/s: 2,000 requests drawn evenly from the trace, all at time 0.

    A shorter trace is repeated, and no prefix is cached: a draw shares what no run of the trace would. It is kept
    in the user's cache folder, by trace, settings and source.
    """
    plain = settings.with_(**ASIDE)
    burst = _burst(trace)
    lengths = hashlib.sha256(burst.prompt.tobytes() + burst.output.tobytes()).hexdigest()
    guesses = plain.guesses
    inputs = {name: value for name, value in asdict(plain).items() if name not in CLUSTER}
    key = [lengths, inputs, plain.hardware().to_json(), fingerprint(), guesses and guesses.about]
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / f"sustained-{name}.json"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["requests_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    rate = _measure(burst, plain)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomically(path) as file:
            file.write_text(json.dumps({"requests_per_s": rate}), encoding="utf-8")
    except (OSError, OutputError):
        pass  # a cache that cannot be written costs time only
    return rate


def _burst(trace: Trace) -> Trace:
    rows = np.arange(CALIBRATION) * len(trace) // CALIBRATION
    outputs = np.array(outputs_of(trace), np.int64)
    return Trace(trace.name, trace.source, np.zeros(CALIBRATION, np.int64), trace.prompt[rows], outputs[rows])


def _measure(burst: Trace, settings: Settings) -> float:
    run = run_one(burst, PolicySpec("fcfs"), settings, seed=0)
    if run.settings.get("interrupted"):
        raise KeyboardInterrupt
    makespan = run.summary["makespan_s"]
    if not makespan or run.summary["rejected"] == len(burst):
        raise ValueError("no request of the trace fits in the KV pool: give more --kv-tokens")
    return len(burst) / makespan  # what will be rejected or truncated arrives all the same


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastserve-testbed"
