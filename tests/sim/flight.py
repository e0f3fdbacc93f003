"""The flight log of a simulated run."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastserve.flightlog.write import FlightLog
from fastserve.policies.spec import PolicySpec
from fastserve.sched.config import SchedulerConfig
from fastserve.workload import Trace
from sim.prefix_cache import content_of, decided
from sim.run import build
from sim.settings import Settings
from sim.world import World


def flown(trace: Trace, policy: str, settings: Settings, path: Path) -> tuple[World, list[dict[str, Any]]]:
    """Runs it, its log in `path`; the world, and the log's lines."""
    hardware = settings.hardware()
    shared = content_of(decided(settings, trace), trace, hardware.memory.block_tokens)
    world, scheduler = build(trace, PolicySpec(policy), settings, 0, hardware, shared=shared)
    kept: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(SchedulerConfig)}
    kept |= {"block_tokens": hardware.memory.block_tokens, "macro": True}
    if shared is not None:
        kept |= {"prefix_cache": "on", "prefix_tokens": shared.unit}
    ledger = scheduler.ledger
    kept |= {"device_blocks": ledger.blocks, "host_blocks": ledger.host}
    header = {"policy": policy, "knobs": {}, "hardware": hardware.to_json(), "settings": kept}
    header |= {"longest": int(trace.prompt.max()), "context": 4000}
    world.attach(FlightLog(path, header))
    world.run()
    return world, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
