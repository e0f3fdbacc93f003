"""Calibration: measures a backend and fits its Hardware, with the errors of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from fastserve.engine.backend import CopyTime, Profiled, VerifyTime
from fastserve.engine.config import EngineConfig
from fastserve.engine.engine import Engine
from fastserve.formats import stamp
from fastserve.hardware import Hardware, LinearLatency, Link
from fastserve.hardware.least_squares import fit
from fastserve.hardware.lines import UNMEASURED
from fastserve.policies.spec import PolicySpec
from fastserve.profiler.fit import Cell, Iteration, Residual, cells_of, fit_latency, predict_ms, residuals
from fastserve.profiler.load import Report, machine, measure
from fastserve.profiler.verify import shares, with_verify

ABOUT = ("model", "backend", "dtype", "device", "threads", "native", "max_batch")
"""Settings of the engine that a profile's document repeats; None where the body has none of that name."""

SHOWN = {"prefill 128": (0, 0, 128, 128**2), "decode 1 x 128": (1, 128, 0, 0), "decode 8 x 128": (8, 1024, 0, 0)}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Result of a calibration. seconds: its duration."""

    hardware: Hardware
    residuals: dict[str, Residual]
    cells: list[Cell]
    copies: list[CopyTime]
    machine: dict[str, Any]
    settings: dict[str, Any]
    seconds: float

    def document(self) -> dict[str, Any]:
        """As JSON values; load_hardware() reads "hardware"."""
        latency = self.hardware.latency
        return {
            **stamp("profile"),
            **{name: self.settings.get(name) for name in ABOUT},
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
    backend: Profiled,
    serving: EngineConfig,
    budget_s: float,
    *,
    longest: int | None = None,
    report: Report | None = None,
) -> Calibration:
    """Runs the profiling load under fcfs on an engine on this backend for the budget. The engine closes the backend.

    serving: batch cap and batching; policy and records are set here. ValueError if the pools are too small, or the
    budget is too short for a prefill and a decode.
    """
    began = perf_counter()
    before = machine()
    plain = replace(serving, policy=PolicySpec("fcfs"), predictor=None, flight_log=None, keep_records=1)
    copies = backend.copy_times()
    verified: list[VerifyTime] = getattr(backend, "verify_times", list)()
    timed = getattr(backend, "timed", None)
    found_first = [] if timed is None else [Iteration(*one) for one in timed(budget_s, longest, report)]
    with Engine(backend, plain) as engine:
        cells = cells_of(found_first or measure(engine, budget_s, longest=longest, report=report))
        settings, memory, info = engine.settings, engine.hardware.memory, engine.info
    after = machine()
    before["load_average"] = max(before["load_average"] or 0.0, after["load_average"] or 0.0)
    latency = with_verify(fit_latency(cells, f"{info.name}, profile"), cells)
    if latency.verify == UNMEASURED:
        latency = LinearLatency(latency.prefill, latency.decode, latency.name, latency.provenance, shares(verified))
    found = residuals(cells, latency)
    seconds = perf_counter() - began
    missed = ", ".join(f"{kind} {one.median:.1%} (bias {one.bias:+.1%})" for kind, one in found.items())
    latency.provenance = (
        f"fastserve profile: {in_words({**settings, 'model': info.name})}, "
        f"{before['cpu']}, {before['cores']} cores, load average "
        f"{before['load_average']:.1f}; {sum(cell.seen for cell in cells)} whole iterations in {seconds:.0f} s; "
        f"median miss: {missed}"
    )
    hardware = Hardware(
        latency, memory, fit_link(copies), f"{info.name}, measured by fastserve profile", info.max_model_len
    )
    return Calibration(hardware, found, cells, copies, before, settings, seconds)


def in_words(settings: Mapping[str, Any]) -> str:
    """What was measured, of settings as in ABOUT."""
    threads = settings.get("threads")
    known = [settings["model"], f"backend {settings['backend']}", settings.get("dtype"), settings.get("device")]
    return ", ".join([*filter(None, known), *([] if threads is None else [f"{threads} threads"])])


def fit_link(copies: Sequence[CopyTime]) -> Link:
    """Fits a bandwidth each way and one latency per copy. Without copies: the default link, which is unused then.

    Copies of one size alone, as a pool of one block has them, are a bandwidth without a latency.
    """
    ways = [[copy for copy in copies if copy.out is out] for out in (True, False)]
    if not all(ways):
        return Link()
    rates, latencies = [], []
    for way in ways:
        sizes = {copy.bytes for copy in way}
        rows = [(1.0 if len(sizes) > 1 else 0.0, copy.bytes) for copy in way]
        each, per_byte = fit(rows, [copy.seconds for copy in way])
        rates.append(max(1, round(1 / max(per_byte, 1e-12))))
        latencies.append(round(each * 1e9))
    return Link(rates[0], rates[1], round(sum(latencies) / 2))
