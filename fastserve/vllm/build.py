"""What is made of vLLM's configuration: the Scheduler and its driver, who looks at it, the header of its flight log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

from fastserve.flightlog.write import FlightLog
from fastserve.hardware import DEFAULT, load_hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Recorder
from fastserve.policies.spec import PolicySpec
from fastserve.sched.config import Blocks, SchedulerConfig
from fastserve.sched.errors import ObserverError
from fastserve.sched.job import Job
from fastserve.sched.observer import Observers
from fastserve.vllm.driver import Driver
from fastserve.vllm.records import KEPT, RecordLines
from fastserve.vllm.request import Reader
from fastserve.vllm.settings import VllmSettings, installed

log = logging.getLogger("vllm.fastserve")


class Body(NamedTuple):
    """What one vLLM is, in the Scheduler's terms."""

    slots: int  # how many share a step
    rows: int  # whose KV may be on the device at once
    budget: int  # tokens of a step
    blocks: int  # of the KV pool, in each group of it
    block: int  # tokens
    groups: int  # of KV, that share the pool
    drafts: int  # speculated tokens of a step
    longest: int  # tokens of prompt and output
    parks: bool  # KV of who leaves stays in its row
    shares: bool  # the Scheduler follows vLLM's prefix cache
    ahead: bool  # vLLM schedules a step before it knows what the last one has yielded
    release: str


def body_of(vllm: Any, settings: VllmSettings) -> Body:
    """vllm: its scheduler, made."""
    rows = vllm.max_num_running_reqs
    groups = max(1, len(vllm.kv_cache_config.kv_cache_groups))
    shares = vllm.cache_config.enable_prefix_caching and groups == 1 and vllm.hash_block_size == vllm.block_size
    if settings.cache == "on" and not shares:
        log.warning("cache=on: vLLM caches no prefixes, or has several groups of KV: its cache is not followed")
    if settings.leave == "park" and vllm.lora_config is not None:
        log.warning("leave=park: with LoRA a request that leaves is recomputed: all adapters in use must fit max_loras")
    return Body(
        slots=min(settings.slots or vllm.max_num_active_reqs, rows),
        rows=rows,
        budget=vllm.max_num_scheduled_tokens,
        blocks=max(1, (vllm.kv_cache_config.num_blocks - 1) // groups),  # (one is vLLM's own)
        block=vllm.block_size,
        groups=groups,
        drafts=vllm.num_spec_tokens,
        longest=vllm.max_model_len,
        parks=settings.leave == "park" and vllm.lora_config is None,
        shares=shares and settings.cache != "off",
        ahead=vllm.ahead,
        release=installed() or "unknown",
    )


class Maker:
    """Makes drivers for one vLLM. arrival: request -> ns. counts: the adapter's.

    Raises ValueError for a policy, a setting or a profile that there is not, OSError for a file that cannot be written.
    """

    def __init__(
        self, settings: VllmSettings, body: Body, arrival: Callable[[Any], int], counts: dict[str, Any]
    ) -> None:
        self.settings = settings
        self.body = body
        self.arrival = arrival
        self.counts = counts
        self.config = SchedulerConfig(
            max_batch=body.slots,
            batching="chunked",
            token_budget=max(body.budget, body.slots + 1),  # vLLM hands the tokens out; here no prefill must starve
            residency="recompute",
            max_resident=body.rows if body.parks else None,
            visit=settings.visit,
            block_tokens=body.block,
            prefix_cache="on" if body.shares else "off",
            lookahead=body.drafts,
        )
        self.hardware = load_hardware(settings.profile or DEFAULT)
        self.spec = PolicySpec(settings.policy, settings.knobs)
        self.spec.check()

    def driver(self, now: int) -> Driver:
        """With the policy asked for, and those who look at it."""
        driver = self._driver(self.spec, 0)
        self._attach(driver.observers, driver.requests, now)
        return driver

    def successor(self, driver: Driver) -> Driver:
        """With fcfs, after that one has failed; nobody looks at it."""
        return self._driver(PolicySpec("fcfs"), driver.reader.next_id)

    def _driver(self, spec: PolicySpec, next_id: int) -> Driver:
        body = self.body
        times = MachineTimes(self.hardware, body.slots, body.longest, body.longest)
        scheduler = self.config.build(spec.fresh(), times, Blocks(body.blocks, 0, body.block), macro=False)
        unit = body.block if body.shares else 0
        reader = Reader("guess" in scheduler.policy.needs, unit, self.counts, next_id)
        about = {"backend": "vllm", "vllm": body.release, "policy": spec.path}
        observers = Observers(scheduler, about, _broken)
        return Driver(scheduler, observers, reader, self.arrival, body.parks, body.longest, self.counts)

    def _attach(self, observers: Observers, request_of: dict[Job, Any], now: int) -> None:
        if self.settings.flight_log is not None:
            observers.attach(FlightLog(self.settings.flight_log, self.header()), now)
        if self.settings.records is not None:
            lines = RecordLines(self.settings.records, request_of)
            observers.attach(Recorder(keep=KEPT, watch=lines.write), now)
            observers.attach(lines, now)

    def header(self) -> dict[str, Any]:
        """Everything that the Scheduler is built from, as an engine's log has it. ahead: each commit tells the service
        of the step before the one that it commits.
        """
        body = self.body
        return {
            "backend": "vllm",
            "vllm": body.release,
            "ahead": body.ahead,
            "parks": body.parks,
            "policy": self.spec.path,
            "knobs": dict(self.spec.knobs),
            "hardware": self.hardware.to_json(),
            "longest": body.longest,
            "context": body.longest,
            "settings": {field.name: getattr(self.config, field.name) for field in fields(SchedulerConfig)}
            | {"device_blocks": body.blocks, "host_blocks": 0, "macro": False},
        }

    def log_start(self) -> None:
        body = self.body
        log.info(
            "fastserve: policy %s, %d slots of %d rows; who leaves %s; the prefix cache is%s followed; times of %s",
            self.spec.title, body.slots, body.rows, "keeps its KV" if body.parks else "is recomputed",
            "" if body.shares else " not", self.settings.profile or f"{DEFAULT}, as none are given (--profile)",
        )  # fmt: skip


def _broken(error: ObserverError) -> None:
    log.error("%s; it is told nothing more", error, exc_info=error.__cause__)
