"""What the objectives ask of the machine even when nobody else is there."""

from __future__ import annotations

import numpy as np

from fastserve.metrics.slo import Slo
from fastserve.workload import Trace
from fastserve.workload.requests import outputs_of
from sim.capacity.stop import limits_of
from sim.machine import Alone
from sim.settings import Settings


def met_alone(trace: Trace, settings: Settings, slo: Slo) -> float | None:
    """Share of the requests that meet their objectives on an empty machine: what no load can exceed. None where one
    machine says nothing of it: replicas that differ, cached prefixes, guessed tokens; and without objectives.
    """
    if settings.replica or settings.speculate or (trace.hash_ids is not None and settings.prefix_cache != "off"):
        return None
    alone = Alone(settings.hardware().latency, settings.budget if settings.batching == "chunked" else None)
    outputs = outputs_of(trace)
    prompts: list[int] = trace.prompt.tolist()
    first = np.array([alone.ps(prompt, 1) for prompt in prompts]) / 1e12
    whole = np.array([alone.ps(prompt, output) for prompt, output in zip(prompts, outputs, strict=True)]) / 1e12
    later = (whole - first) / np.maximum(np.array(outputs) - 1, 1)
    limits = limits_of(trace, slo)
    asks = ~np.isnan(limits).all(0)
    late = (first > limits[0]) | (later > limits[1]) | (whole > limits[2])
    return float(np.mean(~late[asks])) if asks.any() else None
