"""What is made of vLLM's configuration: the Scheduler, who looks at it, and the header of its flight log."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from fastserve.flightlog.write import FlightLog
from fastserve.hardware import DEFAULT, load_hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.json_values import plain
from fastserve.policies.spec import PolicySpec
from fastserve.sched.config import Blocks, SchedulerConfig
from fastserve.sched.errors import ObserverError
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer, Observers
from fastserve.sched.scheduler import Scheduler
from fastserve.vllm.settings import VllmSettings

log = logging.getLogger("vllm.fastserve")


class Body(NamedTuple):
    """What one vLLM is, in the Scheduler's terms."""

    slots: int  # how many share a step
    rows: int  # whose KV may be on the device at once
    budget: int  # tokens of a step
    blocks: int  # of the KV pool
    block: int  # tokens
    drafts: int  # speculated tokens of a step
    longest: int  # tokens of the longest prompt and output together
    parks: bool  # KV of who leaves stays in its row
    shares: bool  # the Scheduler follows vLLM's prefix cache
    ahead: bool  # vLLM schedules a step before it knows what the last one has yielded
    release: str


def config_of(settings: VllmSettings, body: Body) -> SchedulerConfig:
    """Raises ValueError for what cannot work."""
    return SchedulerConfig(
        max_batch=body.slots,
        batching="chunked",
        token_budget=max(body.budget, body.slots + 1),  # vLLM hands the tokens out; this only must not starve a prefill
        residency="recompute",
        max_resident=body.rows if body.parks else None,
        visit=settings.visit,
        block_tokens=body.block,
        prefix_cache="on" if body.shares else "off",
        lookahead=body.drafts,
    )


class Maker:
    """Makes Schedulers for one vLLM: that of the policy asked for, and that of fcfs after it has failed.

    Raises ValueError for a policy, a setting or a profile that there is not, OSError for a file that cannot be written.
    """

    def __init__(self, settings: VllmSettings, body: Body) -> None:
        self.settings = settings
        self.body = body
        self.config = config_of(settings, body)
        self.hardware = load_hardware(settings.profile or DEFAULT)
        self.spec = PolicySpec(settings.policy, settings.knobs)
        self.spec.check()
        if settings.profile is None:
            log.info("policies that read iteration times get those of %s: measure yours, see --profile", DEFAULT)

    def scheduler(self, policy: PolicySpec) -> Scheduler:
        body = self.body
        times = MachineTimes(self.hardware, body.slots, body.longest, body.longest)
        return self.config.build(policy.fresh(), times, Blocks(body.blocks, 0, body.block), macro=False)

    def observers(self, scheduler: Scheduler, request_of: dict[Job, Any], now: int) -> Observers:
        """With the flight log and the records that were asked for. request_of: job -> vLLM's request, while it lives."""
        found = Observers(scheduler, {"backend": "vllm", "vllm": self.body.release}, _broken)
        if self.settings.flight_log is not None:
            found.attach(FlightLog(self.settings.flight_log, self.header()), now)
        if self.settings.records is not None:
            from fastserve.metrics.records import Recorder  # needs numpy

            rows = Rows(self.settings.records, request_of)
            found.attach(Recorder(keep=1000, watch=rows.write), now)
            found.attach(rows, now)
        return found

    def header(self) -> dict[str, Any]:
        """Everything that the Scheduler is built from, as an engine's log has it. ahead: a commit tells the service of
        the step before its own.
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


class Rows(Observer):
    """Writes each record as a line of JSON, with the request's name in vLLM. request_of: see Maker.observers()."""

    def __init__(self, path: str, request_of: dict[Job, Any]) -> None:
        self.file = Path(path).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed in ended())
        self.request_of = request_of

    def write(self, job: Job, row: dict[str, Any]) -> None:
        request = self.request_of.get(job)
        told = {"request": None if request is None else request.request_id, **row}
        self.file.write(json.dumps(plain(told), separators=(",", ":")) + "\n")

    def ended(self, now: int) -> None:
        """After the Recorder, which was attached before it."""
        self.file.close()


def _broken(error: ObserverError) -> None:
    log.error("%s; it is told nothing more", error, exc_info=error.__cause__)
