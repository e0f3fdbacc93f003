"""Live runs on vLLM as its clients meet it: `fastserve vllm` servers, and vLLM's own, over HTTP, one after the other.

A server serves the runs of one contender that follow each other. What policies are told of the machine's times, and
the unit of the load, come from one calibration: a burst of requests on vLLM under our fcfs, whose flight log is fitted.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments._lib import live
from experiments._lib.case import Case, Numbers, Workload, to_json
from experiments._lib.live import LiveSettings
from fastserve.atomic_files import atomically
from fastserve.compare.compare import CompareError, Replay
from fastserve.compare.contender import Contender, VllmItself
from fastserve.compare.subprocess_server import Child, ServerError
from fastserve.compare.vllm import VllmBody, VllmSetup
from fastserve.metrics.summary import Columns, summarise
from fastserve.policies.spec import PolicySpec
from fastserve.sched.config import SchedulerConfig
from fastserve.vllm.settings import interpreter
from fastserve.workload import Trace
from sim.run import run_one

OWN = "vllm"
"""The contender that is vLLM's own scheduler, fcfs; it is simulated as our fcfs."""
SOURCES = ("fastserve/vllm", "fastserve/sched", "fastserve/compare", "fastserve/bench", "fastserve/profiler")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip
"""One thread and 1 GiB of KV, where the environment says nothing else."""
BLOCK = 32
"""tokens: CPU attention asks for a multiple of it"""
MEASURES = ("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s", "p95_ttft_s", "preemptions_per_job",
            "output_tokens_per_s")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRig:
    """Setup of a live case except its policy; part of the case's options, and so of the run-id."""

    slots: int = 4
    rows_per_slot: int = 4
    """rows of vLLM for each slot: who is preempted is parked in one, its KV kept, until they run out"""
    max_model_len: int = 2048
    token_budget: int = 2048
    """tokens of a step"""
    burst: int = 200
    """requests of the calibration, all there at once"""
    burst_slots: int = 16
    """slots of the calibration: as the burst ends, all smaller batches come too"""
    life: int = 0
    """which server of its contender: they take turns"""
    place: str = ""
    """hash of sources and machine, from here()"""

    def scheduler(self) -> SchedulerConfig:
        """What the adapter builds for this rig."""
        return SchedulerConfig(
            max_batch=self.slots, batching="chunked", token_budget=self.token_budget, residency="recompute",
            block_tokens=BLOCK, prefix_cache="off", max_resident=self.rows_per_slot * self.slots,
        )  # fmt: skip

    def setup(self, **more: Any) -> VllmSetup:
        from fastserve.models.embedded import make_embedded

        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        slots = more.pop("slots", self.slots)
        return VllmSetup(
            python=interpreter(), model=str(make_embedded()), slots=slots, rows=self.rows_per_slot * slots,
            leave="park", **more,
            flags=("--dtype", "float32", "--max-model-len", str(self.max_model_len), "--block-size", str(BLOCK),
                   "--max-num-batched-tokens", str(self.token_budget), "--enforce-eager"),
        )  # fmt: skip


def here() -> str:
    """Hash (16 digits) of what live results depend on, and which Python has vLLM."""
    where = ""
    with suppress(ValueError):
        where = str(interpreter())
    found = live.here("experiments/_lib/vllm_served.py", sources=SOURCES, packages=())
    return hashlib.sha256(f"{found} {where}".encode()).hexdigest()[:16]


def replayed(case: Case, rig: ServedRig) -> Numbers:
    """A live run, and its simulation by the calibration's profile.

    Numbers: live_M and sim_M for each measure M; the jobs' completion times, live; what was told to vLLM, what the
    client saw of itself, the release of vLLM, and how many outputs had another length.
    """
    profile, unit = _calibrated(case.workload, rig)
    rate = float(case.at["load"]) * unit
    trace = case.workload.trace(rate, case.seed)
    contender = VllmItself() if case.at["policy"] == OWN else case.policy
    body, server = _served(str(case.at["policy"]), contender, rig, profile)
    try:
        found = body.replay_on(contender, server.url, server, trace, case.seed)
    except (CompareError, ServerError) as error:
        raise ValueError(f"{case.at}: {error}") from None
    told = run_one(trace, case.policy, _settings(rig, profile), case.seed)
    numbers: Numbers = {"rate": rate, "load": case.at["load"], "load_average": os.getloadavg()[0]}
    numbers |= {f"live_{measure}": found.summary[measure] for measure in MEASURES}
    numbers |= {f"sim_{measure}": told.summary[measure] for measure in MEASURES}
    numbers["live_jct"] = np.round(found.records["jct_from_arrival"], 4).tolist()
    numbers |= {"profile": Path(profile).stem, "vllm": body.release, "late": found.notes["late"],
                "wrong_outputs": found.notes["wrong_outputs"],
                "lag_p99_ms": found.notes["dispatch_lag_p99_ms"]}  # fmt: skip
    return numbers


def _calibrated(workload: Workload, rig: ServedRig) -> tuple[str, float]:
    """(a hardware file, requests/s that fcfs sustains by it in the simulation); measured once for a workload's lengths.

    The same file for all slots: profile and unit are kept in results/live.
    """
    about = {"lengths": [workload.prompt, workload.output], "rig": to_json(asdict(rig) | {"slots": 0, "life": 0})}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    path = live.ROOT / "results" / "live" / f"vllm-served-{key}.json"
    if not path.exists():
        kept = _burst(workload, rig)
        with atomically(path) as draft:
            draft.write_text(json.dumps(kept | {"about": about}), encoding="utf-8")
    profile = json.loads(path.read_text(encoding="utf-8"))["profile"]
    return profile, _capacity(workload, rig, profile)


@lru_cache(maxsize=8)
def _capacity(workload: Workload, rig: ServedRig, profile: str) -> float:
    return workload.sustained_rate(_settings(rig, profile))


def _burst(workload: Workload, rig: ServedRig) -> dict[str, Any]:
    from fastserve.profiler.from_log import profile_of

    drawn = workload.trace(1.0, 10_007)
    rows = np.arange(rig.burst) % len(drawn)
    trace = Trace("burst", drawn.source, np.zeros(rig.burst, np.int64), drawn.prompt[rows], drawn.output[rows])
    _close()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "flight.jsonl"
        body = VllmBody(rig.setup(slots=rig.burst_slots, more=("--flight-log", str(log))))
        fcfs = PolicySpec("fcfs")
        with body.server(fcfs, rig.burst) as server:
            found: Replay = body.replay_on(fcfs, server.url, server, trace, 10_007)
        fitted = profile_of(log)
    return {
        "profile": str(live.stored_profile(fitted.hardware)), "output_tokens_per_s": _speed(found.records),
        "miss": {kind: one.median for kind, one in fitted.residuals.items()}, "load_average": os.getloadavg()[0],
    }  # fmt: skip


def _speed(records: Columns) -> float | None:
    summary = summarise(records, horizon_s=float(np.nanmax(records["end"])))
    return summary["output_tokens_per_s"]


def _settings(rig: ServedRig, profile: str) -> LiveSettings:
    own = {field.name: getattr(rig.scheduler(), field.name) for field in fields(SchedulerConfig)}
    return LiveSettings(latency=profile, longest=rig.max_model_len, **own)


_alive: dict[tuple[str, ServedRig], tuple[VllmBody, Child]] = {}


def _served(label: str, contender: Contender, rig: ServedRig, profile: str) -> tuple[VllmBody, Child]:
    """Its server. One at a time: that of another contender, or of an earlier turn, is ended first."""
    if (label, rig) not in _alive:
        _close()
        body = VllmBody(rig.setup(profile=profile))
        try:
            _alive[label, rig] = body, body.server(contender, 0)
        except ServerError as error:
            raise ValueError(f"{label}: {error}") from None
    return _alive[label, rig]


@atexit.register
def _close() -> None:
    while _alive:
        _alive.popitem()[1][1].close()
