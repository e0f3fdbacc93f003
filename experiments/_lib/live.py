"""A live run and its simulation with the same trace, policy class, pools and settings; the simulation runs first."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib.case import TIMES, Case, Numbers, Workload, to_json
from experiments._lib.live_body import body_of
from experiments._lib.speed_trace import SpeedTrace, speed_trace_of
from fastserve.atomic_files import atomically
from fastserve.hardware import Hardware, load_hardware
from fastserve.metrics.programs import completed_times
from fastserve.metrics.summary import Columns, summarise
from fastserve.policies.spec import PolicySpec
from fastserve.sched.config import SchedulerConfig
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from fastserve.workload import Trace
from sim.report.provenance import fingerprint
from sim.run import run_one
from sim.settings import Settings

if TYPE_CHECKING:
    from fastserve.engine.config import EngineConfig
    from fastserve.hardware import LatencyModel
    from fastserve.launch import Body
    from fastserve.profiler.calibrate import Calibration
    from fastserve.profiler.fit import Iteration
    from sim.world import World

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("fastserve/engine", "fastserve/backends", "fastserve/launch.py", "fastserve/profiler", "fastserve/compare")
"""Source files that live results depend on."""
PAIR = tuple(f"experiments/_lib/{name}.py" for name in ("live", "live_body", "speed_trace"))
"""Further files that results of pair() depend on, for here()."""
MEASURES = (
    "mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s", "p95_ttft_s", "preemptions_per_job",
    "output_tokens_per_s", "mean_stalled_s", "swapped_out_gib",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings(Settings):
    """Settings of a simulation of a live run."""

    longest: int
    """tokens of the model's context, as the live scheduler has it; it sets the number of levels"""

    def scheduler(self, policy: Policy, hardware: Hardware, longest: int, context: int = 0) -> Scheduler:
        return Settings.scheduler(self, policy, hardware, self.longest, hardware.memory.accepted(self.longest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig(SchedulerConfig):
    """Setup of a live case except its policy; part of the case's options, and so of the run-id."""

    backend: str = "torch"
    options: tuple[tuple[str, str | int | float | bool], ...] = (("dtype", "float32"), ("threads", 1))
    """of the backend, by name; one thread leaves the other core of the machine to everything else"""
    server: str = ""
    """what is started for backend upstream to stand in front of, with max_batch slots"""
    model: str = "embedded"
    max_batch: int = 8
    kv_tokens: int = 2048
    host_tokens: int = 8192
    calibrate_s: float = 6.0
    """seconds of `fastserve profile` just before each live run: the prediction is made from it"""
    load: float = 0.8
    """rate over what fcfs sustains in the simulation; fixed by the first calibration, for all cases of a workload"""
    again: bool = False
    """repeat only the live run on the same trace: the noise floor"""
    place: str = ""
    """hash of sources and machine, from here()"""


def here(*more: str, sources: Sequence[str] = SOURCES, packages: Sequence[str] = ("torch", "transformers")) -> str:
    """Hash (16 digits) of what live results depend on: the engine's source and `more`, CPU and versions.

    more: other files or folders of the checkout. FileNotFoundError for one without a source. A package that is not
    installed is a version of its own: no run was made with it.
    """
    from fastserve.profiler.load import cpu

    versions = [_installed(package) for package in packages]
    digest = hashlib.sha256(repr((cpu(), os.cpu_count(), platform.python_version(), *versions)).encode())
    for part in (*sources, *more):
        whole = ROOT / part
        found = (
            [whole] if whole.is_file() else [path for kind in ("*.py", "*.cpp", "*.h") for path in whole.rglob(kind)]
        )
        if not found:
            raise FileNotFoundError(f"{whole} has no source")
        for path in sorted(found):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def pair(case: Case, rig: Rig) -> Numbers:
    """Calibrates (once a moment), simulates, runs live, and simulates twice more: with times fitted to the run itself,
    and with the profile at the measured speed of the machine (speed_trace.py).

    Numbers: live_M, sim_M, hindsight_M and tempo_M for each measure M; the jobs' completion times; the machine's load
    average, and by the profile its tempo each second. load is in units of the anchor, load_now in units of what fcfs
    sustains by this profile.
    """
    from fastserve.profiler.fit import cells_of, fit_latency, residuals

    found, rate, trace = _prepared(case, rig)
    hardware = found.hardware
    predicted = _simulate(case, rig, trace, hardware)
    records, iterations, origin, shares = _live(_body(rig), _serving(case, rig), hardware, trace, case.seed)
    cells = cells_of(iterations)
    tempo = speed_trace_of(iterations, hardware.latency, origin)
    now = rate / case.workload.sustained_rate(_settings(_plain(rig), hardware))
    numbers: Numbers = {"rate": rate, "load": rig.load, "load_now": now, "load_average": os.getloadavg()[0], **shares}
    numbers |= _measured("live", records) | _measured("sim", predicted)
    with suppress(ValueError):  # a run without a decode or without a prefill cannot be fitted
        own = fit_latency(cells, "hindsight")
        numbers |= _measured("hindsight", _simulate(case, rig, trace, hardware, lambda world: _fitted(world, own)))
    followed = _simulate(case, rig, trace, hardware, tempo.attach)
    numbers |= _measured("tempo", followed)
    numbers["tempo"] = np.round(tempo.each, 6).tolist()
    before = residuals(cells, hardware.latency)
    numbers["drift"] = {kind: one.bias for kind, one in before.items()}  # of the profile, on the live iterations
    numbers["profile"] = Path(_settings(rig, hardware).latency).stem
    numbers["profile_miss"] = {kind: one.median for kind, one in found.residuals.items()}
    for of, each in (("live", records), ("sim", predicted), ("tempo", followed)):
        numbers[f"{of}_jct"] = np.round(each["jct_from_arrival"], 4).tolist()
    return numbers


OF_PROGRAMS = (
    "program_time_mean_s", "program_time_p95_s", "programs_per_hour", "hit_rate", "p50_ttft_s", "p99_ttft_s",
    "ttft_first_turn_p99_s", "held_mean_s",
)  # fmt: skip
"""Measures of sessions_pair()."""


def sessions_pair(case: Case, rig: Rig) -> Numbers:
    """The same for programs in closed loop, in the case's settings: calibrates, simulates, plays on the engine, and
    replays the flight log on a fresh Scheduler.

    Numbers: live_M and sim_M for each measure M of OF_PROGRAMS, tempo_M with the profile at the measured speed of the
    machine, tempo_fcfs_M the same under fcfs; program times by name, live and simulated; plans of the live run, and
    whether the log's replay made the same, hits included; the share of requests that found another number of cached
    tokens than in the simulation at that speed.
    """
    from fastserve.engine.playback import play_sessions
    from fastserve.flightlog.replay import replay_log
    from fastserve.profiler.load import Meter

    trace = case.workload.programs(case.seed)
    longest = int(np.percentile(trace.prompt + trace.output, 90))
    hardware = _calibrated(_plain(rig), 2 * longest, _moment(case, rig)).hardware
    coming = case.settings.coming
    settings = _settings(rig, hardware).with_(**{one.name: getattr(coming, one.name) for one in fields(coming)})
    told = run_one(trace, case.policy, settings, case.seed)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "flight.jsonl"
        with _body(rig).engine(replace(_serving(case, rig), flight_log=log), hardware) as engine:
            meter = Meter.attach(engine)
            played = play_sessions(engine, trace, coming, seed=case.seed)
            iterations = meter.iterations()
            origin = float(engine.records()["arrival"][0] - played.records["arrival"][0])
        report = replay_log(log)
    tempo = speed_trace_of(iterations, hardware.latency, origin)
    followed, base = (
        run_one(trace, policy, settings, case.seed, observe=tempo.attach)
        for policy in (case.policy, PolicySpec("fcfs"))
    )
    summary, table = played.measured()
    numbers: Numbers = {"load_average": os.getloadavg()[0], "rate": None, "samples": None}
    for of, found in (
        ("live", summary),
        ("sim", told.summary),
        ("tempo", followed.summary),
        ("tempo_fcfs", base.summary),
    ):
        numbers |= {f"{of}_{measure}": found[measure] for measure in OF_PROGRAMS}
    assert told.programs is not None
    numbers[TIMES], numbers["sim_program_times"] = completed_times(table), completed_times(told.programs)
    numbers |= {"live_plans": report.plans, "live_replayed": float(report.difference is None)}
    cached, simulated = (
        dict(zip(records["id"].tolist(), records["cached_tokens"].tolist(), strict=True))
        for records in (played.records, followed.records)
    )
    numbers["live_other_hits_share"] = float(np.mean([simulated.get(id) != cached[id] for id in cached]))
    return numbers


def resimulated(case: Case, numbers: Numbers, policy: PolicySpec, rig: Rig, tempo: SpeedTrace) -> Numbers:
    """Repeats the simulation of a pair with another policy, rig or speed trace: retold_M for each measure M."""
    hardware = load_hardware(str(profile_path(numbers["profile"])))
    trace = case.workload.trace(numbers["rate"], case.seed)
    changed = replace(case, policy=policy)
    return _measured("retold", _simulate(changed, rig, trace, hardware, tempo.attach))


def again(case: Case, rig: Rig) -> Numbers:
    """Repeats the live run of pair(): again_M for each measure M."""
    found, _, trace = _prepared(case, rig)
    return _measured("again", _live(_body(rig), _serving(case, rig), found.hardware, trace, case.seed)[0])


def plan(cases: Sequence[Case]) -> str:
    """A sentence on the runs ahead and their duration. Measures what fcfs sustains if that is not stored yet.

    A run is taken to last until its last arrival, or as long as fcfs needs for all of it in an overload.
    """
    if not cases:
        return "nothing is left to run"
    rates: dict[tuple[Workload, Rig], float] = {}
    seconds, calibrations, last = 0.0, 0, None
    for case in cases:
        rig = Rig(**case.options)
        bench = case.workload, _plain(rig)
        if bench not in rates:
            kept = _kept(*bench, _body(rig))
            rates[bench] = _prepared(case, rig)[1] / rig.load if kept is None else kept
        seconds += case.workload.requests / rates[bench] / min(1.0, rig.load)
        if last != (last := _moment(case, rig)):
            calibrations += 1
            seconds += rig.calibrate_s
    sustains = ", ".join(f"{rate:.1f}" for rate in rates.values())
    return (
        f"{len(cases)} live runs and {calibrations} calibrations: about {seconds / 60:.0f} minutes (fcfs sustains "
        f"{sustains} requests/s here; load average now {os.getloadavg()[0]:.1f}). A killed run goes on where it was, "
        f"less the live run under way"
    )


def _prepared(case: Case, rig: Rig) -> tuple[Calibration, float, Trace]:
    """Profile, rate (requests/s) and trace of a case."""
    found = _calibrated(_plain(rig), 2 * _longest(case), _moment(case, rig))
    rate = rig.load * sustained(case.workload, _plain(rig), _body(rig), found.hardware)
    return found, rate, case.workload.trace(rate, case.seed)


def _live(
    body: Body, serving: EngineConfig, hardware: Hardware, trace: Trace, seed: int
) -> tuple[Columns, list[Iteration], float, dict[str, float]]:
    """Records, iterations, the trace's beginning on the engine's clock (s), and what share of its busy time the engine
    spent in the Scheduler.
    """
    from fastserve.engine.playback import play
    from fastserve.profiler.load import Meter

    with body.engine(serving, hardware) as engine:
        meter = Meter.attach(engine)
        records = play(engine, trace, seed=seed)
        loop = engine.loop
        shares = {"scheduler_share": loop.scheduler_ns / max(1, loop.busy_ns), "iterations": float(loop.steps)}
        origin = float(engine.records()["arrival"][0] - records["arrival"][0])
        return records, meter.iterations(), origin, shares


def _fitted(world: World, latency: LatencyModel) -> None:
    """Replaces the machine's latency model; the one that policies see stays."""
    world.machine.latency = latency


def _simulate(
    case: Case, rig: Rig, trace: Trace, hardware: Hardware,
    observe: Callable[[World], None] | None = None,
) -> Columns:  # fmt: skip
    return run_one(trace, case.policy, _settings(rig, hardware), case.seed, observe=observe).records


def _plain(rig: Rig) -> Rig:
    """The rig without policy, load and residency, which calibration and sustained rate do not depend on."""
    return replace(rig, load=1.0, again=False, residency="proactive")


def sustained(workload: Workload, rig: Rig, body: Body, hardware: Hardware) -> float:
    """Requests/s that fcfs sustains in the simulation, by the first calibration of this workload on this rig."""
    found = _kept(workload, rig, body)
    if found is not None:
        return found
    facts = _facts(workload, rig, body)
    found = workload.sustained_rate(_settings(rig, hardware))
    about = {"facts": facts, "requests_per_s": found, "load_average": os.getloadavg()[0], "profile": hardware.to_json()}
    with atomically(_path(facts)) as draft:
        draft.write_text(json.dumps(about), encoding="utf-8")
    return found


def _kept(workload: Workload, rig: Rig, body: Body) -> float | None:
    """The stored value for the same machine, model, settings, versions and sources; else None."""
    facts = _facts(workload, rig, body)
    try:
        kept = json.loads(_path(facts).read_text(encoding="utf-8"))
        return float(kept["requests_per_s"]) if kept["facts"] == facts else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _facts(workload: Workload, rig: Rig, body: Body) -> dict[str, Any]:
    """Everything that it depends on. rig.place: the engine's sources, CPU and versions."""
    model = body.model
    facts: dict[str, Any] = {
        "workload": to_json(workload), "rig": to_json(replace(rig, calibrate_s=0.0)),
        "device": str(getattr(model, "device", "")), "native": getattr(model, "native", None) is not None,
        "machine": platform.node(), "brain": fingerprint(),
    }  # fmt: skip
    return facts


def _path(facts: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return ROOT / "results" / "live" / f"sustained-{key}.json"


def _settings(rig: Rig, hardware: Hardware) -> LiveSettings:
    """Settings of a simulation with this hardware."""
    assert hardware.context is not None, "a profile knows it"
    return LiveSettings(latency=str(stored_profile(hardware)), longest=hardware.context, **_scheduler(rig))


def stored_profile(hardware: Hardware) -> Path:
    """Its file, stored under the hash of its content."""
    text = json.dumps(hardware.to_json(), sort_keys=True).encode()
    path = profile_path(f"profile-{hashlib.sha256(text).hexdigest()[:16]}")
    if not path.exists():
        with atomically(path) as draft:
            hardware.save(draft)
    return path


def profile_path(name: str) -> Path:
    """Of a stored profile."""
    return ROOT / "results" / "live" / f"{name}.json"


def _serving(case: Case, rig: Rig) -> EngineConfig:
    from fastserve.compare.offline import serving_of

    return serving_of(case.policy, _scheduler(rig) | _pools(rig) | {"keep_records": None})


def _scheduler(rig: Rig) -> dict[str, Any]:
    return {field.name: getattr(rig, field.name) for field in fields(SchedulerConfig)}


def _pools(rig: Rig) -> dict[str, int]:
    return {"kv_tokens": rig.kv_tokens, "host_tokens": rig.host_tokens}


def _moment(case: Case, rig: Rig) -> str:
    """Cases of one moment share a calibration: a live run and its repetition."""
    return json.dumps([to_json(replace(rig, again=False)), to_json(case.workload), to_json(case.policy), case.seed])


@lru_cache(maxsize=1)
def _calibrated(rig: Rig, longest: int, moment: str) -> Calibration:
    """One calibration for each moment (see _moment()): a shared machine changes within a minute."""
    from fastserve.compare.offline import serving_of
    from fastserve.launch import profiled
    from fastserve.profiler.calibrate import calibrate

    serving = serving_of("fcfs", _scheduler(rig) | _pools(rig))
    backend = profiled(_body(rig), serving)
    return calibrate(backend, serving, rig.calibrate_s, longest=longest)


def _body(rig: Rig) -> Body:
    return body_of(rig.backend, rig.model, rig.options, rig.server, rig.max_batch)


def _longest(case: Case) -> int:
    """90th percentile of the context lengths of the workload, in tokens."""
    trace = case.workload.trace(1.0, case.seed)
    return int(np.percentile(trace.prompt + trace.output, 90))


def _measured(name: str, records: Columns) -> Numbers:
    summary = summarise(records, horizon_s=float(np.nanmax(records["end"])))
    return {f"{name}_{measure}": summary[measure] for measure in MEASURES}
