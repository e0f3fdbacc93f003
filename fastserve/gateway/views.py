"""Views: how loaded each upstream says it is: our servers' GET /load, vLLM's and llama-server's metrics or slots.

Of others the gateway knows what it has sent there itself. Looks are taken every view_interval while requests go by.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from fastserve.gateway.asking import AnswerError, Asking
from fastserve.gateway.upstream import Load, Upstream
from fastserve.gateway.upstreams import Upstreams
from fastserve.http_client import HttpClientError

log = logging.getLogger("fastserve.gateway")

BUSY_S = 5.0
"""Seconds after the last request for which looks go on."""

STALE = 10
"""Looks that may fail in a row until an upstream's load is what the gateway counts."""

LINE = re.compile(rb"^(vllm:[a-z_]+|llamacpp:[a-z_]+)(?:\{[^}]*\})?\s+([0-9.eE+-]+|NaN)\s*$", re.MULTILINE)
"""A sample of a Prometheus page; labels are left out: samples of several engines are added up."""

CONFIG = re.compile(rb"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
MOST = 1 << 40
"""A number that is larger is none."""


class Views:
    """seen: tell it of each request."""

    def __init__(self, upstreams: Upstreams, asking: Asking, interval: float) -> None:
        self.upstreams = upstreams
        self.asking = asking
        self.interval = interval
        self.last_request = float("-inf")
        self.wanted = asyncio.Event()
        self.misses: dict[int, int] = {}
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.gather(*[self.look(each) for each in self.upstreams])
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])

    def seen(self) -> None:
        self.last_request = time.monotonic()
        self.wanted.set()

    async def _run(self) -> None:
        while True:
            await self.wanted.wait()
            if time.monotonic() - self.last_request > BUSY_S and not any(each.outstanding for each in self.upstreams):
                self.wanted.clear()
                continue
            began = time.monotonic()
            await asyncio.gather(*[self.look(each) for each in self.upstreams if each.state == "healthy"])
            await asyncio.sleep(max(0.01, self.interval - (time.monotonic() - began)))

    async def look(self, upstream: Upstream) -> None:
        """Once. What is not told stays as it was, and becomes old."""
        began = time.monotonic_ns()
        try:
            async with asyncio.timeout(max(1.0, 2 * self.interval)):
                load = await self._load(upstream)
        except (HttpClientError, AnswerError, TimeoutError, ValueError, TypeError, KeyError, AttributeError):
            self.misses[upstream.replica] = self.misses.get(upstream.replica, 0) + 1
            if self.misses[upstream.replica] >= STALE:
                upstream.load = Load(slots=upstream.load.slots)
            return
        self.misses.pop(upstream.replica, None)
        if load is not None:
            load.at = began  # not later than when it was true
            upstream.load = load

    async def _load(self, upstream: Upstream) -> Load | None:
        if upstream.kind == "fastserve":
            return of_fastserve(await self.asking.json(upstream, "/load"))
        if upstream.kind == "vllm":
            return of_vllm(await self.asking.text(upstream, "/metrics"))
        if upstream.kind == "llama-server":
            with contextlib.suppress(AnswerError):
                return of_llama_metrics(await self.asking.text(upstream, "/metrics"), upstream.load.slots)
            return of_llama_slots(await self.asking.json(upstream, "/slots"))
        return None


def of_fastserve(found: Any) -> Load | None:
    """Of our server's GET /load; None where it tells no more than the number of requests, as older ones do."""
    if not isinstance(found, Mapping) or "waiting" not in found:
        return None
    return Load(
        "load", 0, _count(found["waiting"]), _count(found["running"]), _maybe(found.get("slots")),
        _count(found.get("queued_tokens")), _maybe(found.get("expected_tokens")), _maybe(found.get("free_tokens")),
        _maybe(found.get("pool_tokens")), _count(found.get("cached_tokens")),
    )  # fmt: skip


def of_vllm(page: bytes) -> Load:
    """Raises ValueError where the page has not what it should."""
    samples = sums(page)
    if b"vllm:num_requests_running" not in samples:
        raise ValueError("no vllm:num_requests_running")
    pool = None
    if config := CONFIG.search(page):
        labels = dict(re.findall(rb'([a-z_]+)="([^"]*)"', config[1]))
        with contextlib.suppress(KeyError, ValueError):
            pool = _count(int(labels[b"num_gpu_blocks"]) * int(labels[b"block_size"]))
    used = samples.get(b"vllm:kv_cache_usage_perc", samples.get(b"vllm:gpu_cache_usage_perc"))
    free = None if pool is None or used is None else round(pool * min(1.0, max(0.0, 1 - used)))
    return Load(
        "metrics", 0, _count(samples.get(b"vllm:num_requests_waiting")),
        _count(samples[b"vllm:num_requests_running"]), None, 0, None, free, pool,
    )  # fmt: skip


def of_llama_metrics(page: bytes, slots: int | None) -> Load:
    """Raises ValueError."""
    samples = sums(page)
    if b"llamacpp:requests_processing" not in samples:
        raise ValueError("no llamacpp:requests_processing")
    waiting, running = samples.get(b"llamacpp:requests_deferred"), samples[b"llamacpp:requests_processing"]
    return Load("metrics", 0, _count(waiting), _count(running), slots)


def of_llama_slots(found: Any) -> Load:
    """Of llama-server's GET /slots. Raises TypeError."""
    if not isinstance(found, list):
        raise TypeError("no list of slots")
    busy = sum(bool(slot.get("is_processing")) for slot in found)
    return Load("metrics", 0, 0, busy, len(found))


def sums(page: bytes) -> dict[bytes, float]:
    """Name -> the sum of its samples."""
    found: dict[bytes, float] = {}
    for name, value in LINE.findall(page):
        number = float(value)
        if 0 <= number < MOST:
            found[name] = found.get(name, 0.0) + number
    return found


def _count(value: Any) -> int:
    """Raises ValueError for what is no number that may be."""
    if value is None:
        return 0
    found = int(value)
    if not 0 <= found < MOST:
        raise ValueError(f"{found} is no such number")
    return found


def _maybe(value: Any) -> int | None:
    return None if value is None else _count(value)
