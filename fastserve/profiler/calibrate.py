"""Calibration: a loaded model becomes measured Hardware, with how well the fit describes it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep
from typing import Any, NamedTuple

import torch

from fastserve.backends.torch.kv_cache import Cache, Ticket
from fastserve.backends.torch.model import Model
from fastserve.backends.torch.warmup import fit
from fastserve.engine.config import EngineConfig
from fastserve.hardware import Hardware, Link
from fastserve.launch import on_model
from fastserve.policies.spec import PolicySpec
from fastserve.profiler.fit import Cell, Iteration, Residual, cells_of, fit_latency, predict_ms, residuals
from fastserve.profiler.load import Report, campaign, machine

COPIES = (1, 2, 4, 8, 16, 32, 64, 128)  # blocks
SPREAD = 256  # blocks of each pool that a measured copy takes its own from
REPEATS = 7
REST_S = 0.002  # before a copy that is timed
SHOWN = {"prefill 128": (0, 0, 128, 128**2), "decode 1 x 128": (1, 128, 0, 0), "decode 8 x 128": (8, 1024, 0, 0)}


class CopyTime(NamedTuple):
    """A copy that was timed on the idle engine: the median of a few."""

    out: bool
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured. seconds: how long it took."""

    hardware: Hardware
    residuals: dict[str, Residual]
    cells: list[Cell]
    copies: list[CopyTime]
    machine: dict[str, Any]
    settings: dict[str, Any]
    seconds: float

    def document(self) -> dict[str, Any]:
        """As plain JSON values; "hardware" is what load_hardware() reads."""
        latency = self.hardware.latency
        return {
            **{name: self.settings[name] for name in ("model", "dtype", "device", "threads", "native", "max_batch")},
            "machine": self.machine,
            "seconds": self.seconds,
            "iterations": sum(cell.seen for cell in self.cells),
            "residuals": {kind: one._asdict() for kind, one in self.residuals.items()},
            "predicted_ms": {name: predict_ms(latency, Iteration(*shape, 0.0)) for name, shape in SHOWN.items()},
            "hardware": self.hardware.to_json(),
            "copies": [copy._asdict() for copy in self.copies],
            "cells": [cell._asdict() for cell in self.cells],
        }


def calibrate(
    model: Model,
    serving: EngineConfig,
    budget_s: float,
    *,
    longest: int | None = None,
    report: Report | None = None,
) -> Calibration:
    """Serves a planned load under fcfs on an engine of its own for the budget. serving: batch cap, batching and pools.

    ValueError where the pools are too small, or the budget too short to see a prefill and a decode.
    """
    began = perf_counter()
    before = machine()
    plain = dataclasses.replace(serving, policy=PolicySpec("fcfs"), predictor=None, flight_log=None, keep_records=1)
    placeholder = _placeholder()
    with on_model(model, plain, hardware=placeholder) as engine:
        copies = copy_times(engine.loop.executor.cache)  # type: ignore[attr-defined]
        cells = cells_of(campaign(engine, budget_s, longest=longest, report=report))
        settings, memory = engine.settings, engine.hardware.memory
    after = machine()
    before["load_average"] = max(before["load_average"] or 0.0, after["load_average"] or 0.0)
    latency = fit_latency(cells, f"{model.name}, profile")
    found = residuals(cells, latency)
    seconds = perf_counter() - began
    missed = ", ".join(f"{kind} {one.median:.1%} (bias {one.bias:+.1%})" for kind, one in found.items())
    latency.provenance = (
        f"fastserve profile: {model.name}, {str(model.dtype).removeprefix('torch.')} on {model.device.type}, "
        f"{torch.get_num_threads()} threads, {before['cpu']}, {before['cores']} cores, load average "
        f"{before['load_average']:.1f}; {sum(cell.seen for cell in cells)} whole iterations in {seconds:.0f} s; "
        f"median miss: {missed}"
    )
    hardware = Hardware(latency, memory, fit_link(copies), f"{model.name}, measured by fastserve profile")
    return Calibration(hardware, found, cells, copies, before, settings, seconds)


def copy_times(cache: Cache) -> list[CopyTime]:
    """Copies by size, each way, on an idle engine. Contents of the pools are lost.

    As a busy engine meets them: blocks from anywhere in up to SPREAD of each pool, and a copying thread that has gone
    to sleep since its last copy. The median of a few, since in so few one hiccup would be all that is seen.
    """
    found = []
    rng = random.Random(0)
    device, host = (range(min(SPREAD, pool)) for pool in (cache.blocks, cache.host_blocks))
    for block in range(max(len(device), len(host))):  # a first use takes longer, and happens once
        cache.copy_in([block % len(host)], [block % len(device)]).wait()
        cache.copy_out([block % len(device)], [block % len(host)]).wait()
    for out, copy, sources, targets in ((True, cache.copy_out, device, host), (False, cache.copy_in, host, device)):
        for blocks in COPIES:
            if blocks <= min(len(device), len(host)):
                seconds = median(
                    _timed(copy, rng.sample(sources, blocks), rng.sample(targets, blocks)) for _ in range(REPEATS)
                )
                found.append(CopyTime(out, blocks * cache.block_bytes, seconds))
    return found


def fit_link(copies: Sequence[CopyTime]) -> Link:
    """A rate each way, and one time per copy for both. Without copies: the default link, which nobody will use."""
    ways = [[copy for copy in copies if copy.out is out] for out in (True, False)]
    if not all(len(way) > 1 for way in ways):
        return Link()
    rates, latencies = [], []
    for way in ways:
        each, per_byte = fit([(1.0, copy.bytes) for copy in way], [copy.seconds for copy in way])
        rates.append(max(1, round(1 / max(per_byte, 1e-12))))
        latencies.append(round(each * 1e9))
    return Link(rates[0], rates[1], round(sum(latencies) / 2))


def _timed(copy: Callable[[list[int], list[int]], Ticket], sources: list[int], targets: list[int]) -> float:
    sleep(REST_S)
    began = perf_counter()
    copy(sources, targets).wait()
    return perf_counter() - began


def _placeholder() -> Hardware:
    """Times for a policy that reads none; on_model() puts the real pools in."""
    from fastserve.hardware import DecodePiece, LinearLatency, Memory, PrefillFit

    return Hardware(LinearLatency(PrefillFit(1.0, 0.0, 0.0), [DecodePiece(1, 1.0, 0.0, 0.0)]), Memory(), Link())
