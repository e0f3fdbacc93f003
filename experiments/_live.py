"""A live run and its simulation: the same trace, policy object, pools and settings; the prediction is made first."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._case import Case, Numbers
from fastserve.measures import Columns, summarise
from fastserve.sched.latency import Hardware
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from fastserve.workload import Trace
from sim.files import atomically
from sim.one import run_one
from sim.settings import Settings

if TYPE_CHECKING:
    from fastserve.engine.calibrate import Calibration
    from fastserve.engine.model import Model
    from fastserve.engine.serving import Serving

ROOT = Path(__file__).resolve().parent.parent
MEASURES = (
    "mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s", "p95_ttft_s", "preemptions_per_job",
    "output_tokens_per_s", "mean_stalled_s", "swapped_out_gib",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings(Settings):
    """Settings of a simulation of a live run."""

    longest: int
    """tokens of the longest prompt that the live scheduler was told of; it sets the number of levels"""

    def scheduler(self, policy: Policy, hardware: Hardware, longest: int) -> Scheduler:
        return Settings.scheduler(self, policy, hardware, self.longest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """What a live case runs on, beside its policy: goes into the case's options, and so into the run-id."""

    model: str = "embedded"
    dtype: str = "float32"
    threads: int = 1
    """of PyTorch; one, so that the machine's other core is left to everything else"""
    max_batch: int = 8
    residency: str = "proactive"
    kv_tokens: int = 2048
    host_tokens: int = 8192
    visit: int = 64
    calibrate_s: float = 10.0
    """seconds of `fastserve profile` before the live runs of a pair at a load: the predictions are made from it"""
    load: float = 0.8
    """rate over what fcfs sustains in the simulation; fixed by the first calibration, for all cases of a workload"""
    again: bool = False
    """a second live run of the same trace: the noise floor"""
    place: str = ""
    """of the engine's sources and of the machine; fill it in by here()"""


def here() -> str:
    """16 digits: the engine's sources, the processor and the version of PyTorch, on which a live number depends."""
    from fastserve.engine.profiling import cpu

    digest = hashlib.sha256(f"{cpu()} {os.cpu_count()} {platform.python_version()}".encode())
    engine = ROOT / "fastserve" / "engine"
    for path in sorted([*engine.rglob("*.py"), *engine.rglob("*.cpp"), *engine.rglob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def pair(case: Case, rig: Rig) -> Numbers:
    """Calibrates unless a run beside it just has, predicts, runs live, and simulates once more with its own times.

    Numbers: live_M, sim_M and hindsight_M for each measure M, again_M where the rig asks; the jobs' live and simulated
    completion times; the machine's load average.
    """
    from fastserve.engine.fitting import cells_of, fit_latency, residuals

    model = _model(rig.model, rig.dtype, rig.threads)
    serving = _serving(case, rig)
    found = _calibrated(replace(rig, again=False, residency="proactive"), 2 * _longest(case), case.seed)
    hardware = found.hardware
    rate = rig.load * _anchor(case, rig, hardware, model)
    trace = case.workload.trace(rate, case.seed)
    predicted = _simulate(case, rig, trace, hardware, model)
    records, iterations, shares = _live(model, serving, hardware, trace, case.seed)
    cells = cells_of(iterations)
    own = replace(hardware, latency=fit_latency(cells, "hindsight"))
    numbers: Numbers = {"rate": rate, "load": rig.load, "load_average": os.getloadavg()[0], **shares}
    numbers |= _measured("live", records) | _measured("sim", predicted)
    numbers |= _measured("hindsight", _simulate(case, rig, trace, own, model))
    if rig.again:
        numbers |= _measured("again", _live(model, serving, hardware, trace, case.seed)[0])
    before = residuals(cells, hardware.latency)
    numbers["drift"] = {kind: one.bias for kind, one in before.items()}  # of the profile, on the live iterations
    numbers["fit"] = {kind: one.median for kind, one in found.residuals.items()}
    numbers["live_jct"] = np.round(records["jct_from_arrival"], 4).tolist()
    numbers["sim_jct"] = np.round(predicted["jct_from_arrival"], 4).tolist()
    return numbers


def _live(
    model: Model, serving: Serving, hardware: Hardware, trace: Trace, seed: int
) -> tuple[Columns, list[Any], dict[str, float]]:
    """Records, iterations, and what share of its busy time the engine spent in the Scheduler."""
    from fastserve.engine.assembly import on_model
    from fastserve.engine.playback import play
    from fastserve.engine.profiling import Meter

    with on_model(model, serving, hardware=hardware) as engine:
        meter = Meter.attach(engine)
        records = play(engine, trace, seed=seed)
        loop = engine.loop
        shares = {"scheduler_share": loop.scheduler_ns / max(1, loop.busy_ns), "iterations": float(loop.steps)}
        return records, meter.iterations(), shares


def _simulate(case: Case, rig: Rig, trace: Trace, hardware: Hardware, model: Model) -> Columns:
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(rig, hardware, model, Path(folder))
        return run_one(trace, case.policy, settings, case.seed).records


def _anchor(case: Case, rig: Rig, hardware: Hardware, model: Model) -> float:
    """Requests/s that fcfs sustains in the simulation, by the first calibration for this workload on this rig here."""
    same = replace(rig, load=1.0, again=False, residency="proactive", calibrate_s=0.0)
    key = hashlib.sha256(repr((case.workload, same)).encode()).hexdigest()[:16]
    path = ROOT / "results" / "live" / f"sustained-{key}.json"
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            found = case.workload.capacity(_settings(rig, hardware, model, Path(folder)))
        with atomically(path) as draft:
            draft.write_text(json.dumps({"requests_per_s": found, "profile": hardware.to_json()}), encoding="utf-8")
    return float(json.loads(path.read_text(encoding="utf-8"))["requests_per_s"])


def _settings(rig: Rig, hardware: Hardware, model: Model, folder: Path) -> LiveSettings:
    hardware.save(folder / "profile.json")
    return LiveSettings(
        latency=str(folder / "profile.json"), max_batch=rig.max_batch, residency=rig.residency, visit=rig.visit,
        longest=model.max_model_len,
    )  # fmt: skip


def _serving(case: Case, rig: Rig) -> Serving:
    from fastserve.duel import serving_of

    shared = {name: getattr(rig, name) for name in ("max_batch", "residency", "kv_tokens", "host_tokens", "visit")}
    return serving_of(case.policy.policy, case.policy.knobs, shared | {"keep_records": None})


@lru_cache(maxsize=1)
def _calibrated(rig: Rig, longest: int, seed: int) -> Calibration:
    """One for all policies of a pair at a load, so that their predictions can be ranked; a new one for the next."""
    from fastserve.duel import serving_of
    from fastserve.engine.calibrate import calibrate

    shared = {name: getattr(rig, name) for name in ("max_batch", "kv_tokens", "host_tokens")}
    return calibrate(
        _model(rig.model, rig.dtype, rig.threads), serving_of("fcfs", {}, shared), rig.calibrate_s, longest=longest
    )


@lru_cache(maxsize=1)
def _model(name: str, dtype: str, threads: int) -> Model:
    from fastserve.engine.model import load_model

    return load_model(name, dtype=dtype, threads=threads)


def _longest(case: Case) -> int:
    """Tokens of the longest context that most of the workload's requests have."""
    trace = case.workload.trace(1.0, case.seed)
    return int(np.percentile(trace.prompt + trace.output, 90))


def _measured(name: str, records: Columns) -> Numbers:
    summary = summarise(records, horizon_s=float(np.nanmax(records["end"])))
    return {f"{name}_{measure}": summary[measure] for measure in MEASURES}
