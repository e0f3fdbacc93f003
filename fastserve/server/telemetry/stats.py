"""Data of /health, /stats and /stats/detailed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from typing import Any

import psutil
from typing_extensions import TypedDict

from fastserve.engine.snapshot import Snapshot
from fastserve.json_values import plain
from fastserve.sched.observer import headline
from fastserve.server.api.native_schema import GpuMemory, Health
from fastserve.server.jobs.jobs import STATES
from fastserve.server.service import Service
from fastserve.server.telemetry.totals import percentiles
from fastserve.speculation.spec import OFF, parse

WINDOW = 60.0
"""Seconds over which throughput is measured."""


class Stats(TypedDict):
    """Times in seconds."""

    is_loaded: bool
    is_ready: bool
    backend_type: str
    request_count: int
    total_tokens_generated: int
    total_inference_time: float
    avg_tokens_per_request: float
    avg_time_per_request: float
    avg_tokens_per_second: float
    uptime: float


class Percentiles(TypedDict):
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class PoolUse(TypedDict):
    """In tokens; total is null where it is unlimited."""

    total: int | None
    used: int
    parked: int
    idle: int


class PrefixCache(TypedDict):
    """In tokens since the start; hit_rate is null before the first prompt."""

    on: bool
    queries: int
    hits: int
    hit_rate: float | None


class Speculation(TypedDict):
    """Since the start. k: guesses of a request in one iteration at most. acceptance is null before the first guess."""

    method: str
    k: int
    draft_tokens: int
    accepted_tokens: int
    acceptance: float | None


class Preemptions(TypedDict):
    count: int
    recomputed_tokens: int
    seconds: float


class BatchUse(TypedDict):
    slots: int
    running: int
    mean_occupancy: float


class Throughput(TypedDict):
    """Of the last minute."""

    requests_per_second: float
    tokens_per_second: float


class Process(TypedDict):
    cpu_percent: float
    memory_bytes: int
    threads: int


class Alert(TypedDict):
    name: str
    value: float
    threshold: float


class Detailed(Stats):
    """scheduler_share: of the time of iterations, 0 to 1, since the start. settings: of the engine, defaults filled in;
    `knobs` are the policy's, `derived` what it makes of them on this machine.
    """

    policy: str
    settings: dict[str, Any]
    queues: dict[str, int]
    jobs: dict[str, int]
    waiting: int
    held: int
    prefix_cache: PrefixCache
    speculation: Speculation
    device_kv: PoolUse
    host_kv: PoolUse
    copies_in_flight: int
    bytes_moved: int
    preemptions: Preemptions
    batch: BatchUse
    jct: Percentiles
    ttft: Percentiles
    tpot: Percentiles
    throughput: Throughput
    error_rate: float
    timeout_rate: float
    truncated_rate: float
    process: Process
    gpu_memory: GpuMemory
    scheduler_us_per_iteration: float
    scheduler_share: float
    iterations: int
    alerts: list[Alert]


def ready(service: Service) -> tuple[bool, str | None]:
    """(ready, reason): whether new requests are accepted, and if not why."""
    if not service.engine.alive:
        return False, f"the engine has stopped: {service.engine.error or 'it was closed'}"
    if service.draining:
        return False, "the server is shutting down"
    return True, None


def health(service: Service) -> Health:
    alive = service.engine.alive
    count, memory = gpu()
    return {
        "status": "healthy" if alive else "unhealthy",
        "is_loaded": alive,
        "is_ready": ready(service)[0],
        "backend_type": service.engine.info.backend,
        "model_loaded": alive,
        "tokenizer_loaded": service.engine.tokenizer is not None,
        "gpu_available": count > 0,
        "gpu_count": count,
        "gpu_memory": memory,
    }


def stats(service: Service) -> Stats:
    totals = service.totals
    requests = max(1, totals.count)
    return {
        "is_loaded": service.engine.alive,
        "is_ready": ready(service)[0],
        "backend_type": service.engine.info.backend,
        "request_count": totals.count,
        "total_tokens_generated": totals.tokens,
        "total_inference_time": totals.seconds,
        "avg_tokens_per_request": totals.tokens / requests,
        "avg_time_per_request": totals.seconds / requests,
        "avg_tokens_per_second": totals.tokens / totals.seconds if totals.seconds else 0.0,
        "uptime": time.time() - service.started,
    }


async def detailed(service: Service) -> Detailed:
    snapshot = await asyncio.to_thread(service.engine.snapshot)
    totals = service.totals
    ends = list(totals.ends)
    count, memory = gpu()
    values = totals.recent()
    if count and memory["total"]:
        values["gpu_memory_usage"] = memory["used"] / memory["total"]
    service.alert(values)
    live = Counter(job.current_state for job in service.registry.jobs.values())
    found: Any = {
        **stats(service),
        "policy": service.engine.serving.name,
        "settings": plain(service.engine.settings),
        "queues": dict(sorted(Counter(headline(job.level) for job in snapshot.jobs).items())),
        "jobs": {state: live.get(state, 0) for state in STATES},
        "waiting": snapshot.waiting,
        "held": snapshot.held,
        "prefix_cache": {
            "on": service.caches_prefixes,
            "queries": totals.hits.asked,
            "hits": totals.hits.found,
            "hit_rate": totals.hits.rate,
        },
        "speculation": _speculation(service, snapshot),
        "device_kv": _pool(snapshot, "device"),
        "host_kv": _pool(snapshot, "host"),
        "copies_in_flight": snapshot.copies,
        "bytes_moved": totals.moved,
        "preemptions": {
            "count": snapshot.counters["preemptions"],
            "recomputed_tokens": totals.recomputed,
            "seconds": totals.preempted,
        },
        "batch": {
            "slots": snapshot.slots,
            "running": snapshot.running,
            "mean_occupancy": snapshot.counters["output_tokens"] / max(1, snapshot.steps) / max(1, snapshot.slots),
        },
        **{name: percentiles([getattr(end, name) for end in ends], 50, 95, 99) for name in ("jct", "ttft", "tpot")},
        "throughput": _throughput(service),
        "error_rate": totals.share("error"),
        "timeout_rate": totals.share("timeout"),
        "truncated_rate": totals.share("truncated"),
        "process": _process(service.process),
        "gpu_memory": memory,
        "scheduler_us_per_iteration": snapshot.scheduler_us,
        "scheduler_share": snapshot.scheduler_share,
        "iterations": snapshot.steps,
        "alerts": [
            {"name": name, "value": value, "threshold": limit}
            for name, (value, limit) in sorted(service.alerts.now.items())
        ],
    }
    detailed: Detailed = found
    return detailed


def _speculation(service: Service, snapshot: Snapshot) -> Speculation:
    asked = parse(service.engine.settings.get("speculate"))
    drafted, accepted = snapshot.counters["draft_tokens"], snapshot.counters["accepted_tokens"]
    return {
        "method": OFF if asked is None else asked.method,
        "k": 0 if asked is None else asked.k,
        "draft_tokens": drafted,
        "accepted_tokens": accepted,
        "acceptance": accepted / drafted if drafted else None,
    }


def _throughput(service: Service) -> Throughput:
    """Of the jobs that ended in the last WINDOW seconds, at most the last RECENT."""
    now = time.time()
    window = min(WINDOW, max(1e-3, now - service.started))
    ends = [end for end in service.totals.ends if end.at > now - window]
    if len(ends) == service.totals.ends.maxlen:
        window = max(1e-3, now - ends[0].at)
    return {
        "requests_per_second": len(ends) / window,
        "tokens_per_second": sum(end.tokens for end in ends) / window,
    }


def _pool(snapshot: Snapshot, name: str) -> PoolUse:
    pool = getattr(snapshot, name)
    return {"total": pool.total, "used": pool.used, "parked": pool.parked, "idle": pool.idle}


def _process(process: psutil.Process) -> Process:
    """cpu_percent: since the last call."""
    with process.oneshot():
        return {
            "cpu_percent": process.cpu_percent(),
            "memory_bytes": process.memory_info().rss,
            "threads": process.num_threads(),
        }


def gpu() -> tuple[int, GpuMemory]:
    """(visible CUDA devices, memory of the current one in bytes). Never imports torch."""
    nothing: GpuMemory = {"total": 0, "used": 0, "free": 0}
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0, nothing
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.device_count(), {"total": total, "used": total - free, "free": free}
