"""A live run of vLLM and its simulation with the same trace, policy, rows and pool; the simulation runs first.

vLLM is served by a process of its own (vllm_worker.py), which lives as long as this one: one engine, a fresh scheduler
for each run. Runs under our Scheduler leave a flight log, from which the profile, the machine's speed and the replay
come; vLLM's own scheduler is unmodified but for a stop-watch.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._lib import live
from experiments._lib.case import Case, Numbers, Workload, to_json
from experiments._lib.live import LiveSettings
from experiments._lib.speed_trace import speed_trace_of
from fastserve.atomic_files import atomically
from fastserve.flightlog.replay import Rerun, opened
from fastserve.flightlog.twin import twin_of
from fastserve.hardware import Hardware, Link, Memory, load_hardware
from fastserve.policies.spec import PolicySpec
from fastserve.sched.config import SchedulerConfig
from fastserve.vllm.settings import VllmSettings, interpreter
from fastserve.workload import Trace
from sim.report.provenance import fingerprint
from sim.report.run import Run
from sim.run import run_one

if TYPE_CHECKING:
    from fastserve.hardware import LatencyModel
    from fastserve.profiler.fit import Iteration
    from sim.world import World

OWN = "vllm"
"""vLLM's own scheduler, fcfs; it is simulated as our fcfs."""
SOURCES = ("fastserve/vllm", "fastserve/sched", "fastserve/profiler")
PAIR = ("experiments/_lib/vllm_pair.py", "experiments/_lib/vllm_worker.py", "experiments/_lib/speed_trace.py")
ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("vllm_worker.py")
MEASURES = ("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s", "p95_ttft_s", "preemptions_per_job",
            "output_tokens_per_s")  # fmt: skip
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}  # fmt: skip
"""One thread and 1 GiB of KV; vLLM's engine core in the worker's own process."""
BLOCK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmRig:
    """Setup of a live case except its policy; part of the case's options, and so of the run-id."""

    hidden: int = 512
    layers: int = 6
    """measures of the model: a Llama with seeded random weights, float32"""
    max_model_len: int = 1024
    token_budget: int = 512
    slots: int = 4
    rows: int = 64
    """those of the runner: who is preempted is parked in one, its KV kept, until they run out"""
    most_rows: int = 256
    """those that the engine is started with, for all cases"""
    calibrate_s: float = 5.0
    """seconds of a load just before each live run: the prediction is made from its flight log"""
    load: float = 1.1
    """rate over what fcfs sustains in the simulation; fixed by the first calibration, for all cases of a workload"""
    again: bool = False
    """repeat only the live run on the same trace: the noise floor"""
    place: str = ""
    """hash of sources and machine, from here()"""

    def engine(self) -> dict[str, Any]:
        heads = max(1, self.hidden // 64)
        model = {
            "vocab_size": 1000, "hidden_size": self.hidden, "intermediate_size": 2 * self.hidden,
            "num_hidden_layers": self.layers, "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2),
            "max_position_embeddings": self.max_model_len,
        }  # fmt: skip
        return {
            "model": model, "max_model_len": self.max_model_len, "max_num_seqs": self.most_rows,
            "max_num_batched_tokens": self.token_budget, "enable_prefix_caching": False,
        }  # fmt: skip

    def scheduler(self) -> SchedulerConfig:
        """What the adapter builds for this rig."""
        return SchedulerConfig(
            max_batch=self.slots, batching="chunked", token_budget=self.token_budget, residency="recompute",
            block_tokens=BLOCK, prefix_cache="off", max_resident=self.rows,
        )  # fmt: skip


def here() -> str:
    """Hash (16 digits) of what live results depend on, and which Python has vLLM."""
    where = ""
    with suppress(ValueError):
        where = str(interpreter())
    found = live.here(*PAIR, sources=SOURCES, packages=())
    return hashlib.sha256(f"{found} {where}".encode()).hexdigest()[:16]


class Worker:
    """Commands to the process that has vLLM. ValueError with its last words where it fails."""

    def __init__(self, engine: dict[str, Any]) -> None:
        self.log = tempfile.NamedTemporaryFile("w+", prefix="vllm-", suffix=".log", errors="replace")  # noqa: SIM115
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [str(interpreter()), "-P", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
        )  # fmt: skip
        atexit.register(self.close)
        models = live.ROOT / "results" / "live" / "models"
        models.mkdir(parents=True, exist_ok=True)
        self.about = self.ask("start", engine=engine, folder=str(models))

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        answer: dict[str, Any] = {"error": "it has ended"}
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            if line:
                answer = json.loads(line)
        if "error" in answer:
            self.log.seek(0)
            raise ValueError(f"vLLM: {answer['error']}\n{self.log.read()[-2000:]}")
        return answer

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@lru_cache(maxsize=1)
def _worker(engine: str) -> Worker:
    return Worker(json.loads(engine))


def worker(rig: VllmRig) -> Worker:
    """The one of this engine; it is started once."""
    return _worker(json.dumps(rig.engine(), sort_keys=True))


@dataclass(frozen=True, slots=True)
class LiveRun:
    """requests: (first token, end, tokens) of each, s from the trace's beginning, which is origin_s of the clock."""

    requests: list[tuple[float, float, int]]
    origin_s: float
    iterations: list[Iteration]
    counts: dict[str, Any]
    log: Path | None

    def measured(self, name: str, trace: Trace, preemptions: float | None) -> Numbers:
        arrival = trace.arrival / 1e9
        first, end, tokens = np.array(self.requests, float).T
        return _measured(name, arrival, first, end, tokens, preemptions)


def pair(case: Case, rig: VllmRig) -> Numbers:
    """Calibrates (once a moment), simulates, runs live, and simulates twice more, as live.pair() does; replays the
    flight log, and compares it with a twin.

    Numbers: live_M, sim_M, hindsight_M and tempo_M for each measure M; the jobs' completion times; load average, tempo;
    of our policies plans, whether the replay made all of them, how many a twin made, and what came before it parted.
    """
    from fastserve.profiler.fit import cells_of, fit_latency, residuals

    hardware, rate, trace = _prepared(case, rig)
    settings = _settings(rig, hardware)
    predicted = run_one(trace, case.policy, settings, case.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = _live(case, rig, trace, hardware, Path(folder))
        numbers: Numbers = {
            "rate": rate,
            "load": rig.load,
            "load_average": os.getloadavg()[0],
            "pool": hardware.memory.device_tokens,
        }
        numbers |= _checked(run, rig) if run.log is not None else {"scheduler_share": 0.0}
    numbers |= run.measured("live", trace, numbers.get("live_preemptions"))
    cells = cells_of(run.iterations)
    tempo = speed_trace_of(run.iterations, hardware.latency, run.origin_s)
    followed = run_one(trace, case.policy, settings, case.seed, observe=tempo.attach)
    simulated = {"sim": predicted, "tempo": followed}
    with suppress(ValueError):  # a run without a decode or without a prefill cannot be fitted
        own = fit_latency(cells, "hindsight")
        simulated["hindsight"] = run_one(
            trace, case.policy, settings, case.seed, observe=lambda world: _fitted(world, own)
        )
    for of, told in simulated.items():
        records = told.records
        numbers |= _measured(of, records["arrival"], records["first_token"], records["end"], records["output_tokens"],
                             told.summary["preemptions_per_job"])  # fmt: skip
    numbers["load_now"] = rate / case.workload.sustained_rate(settings)
    numbers["tempo"] = np.round(tempo.each, 4).tolist()
    numbers["drift"] = {kind: one.bias for kind, one in residuals(cells, hardware.latency).items()}
    numbers["profile"] = Path(settings.latency).stem
    numbers["live_jct"] = np.round(
        [end - at for (_, end, _), at in zip(run.requests, trace.arrival / 1e9, strict=True)], 4
    ).tolist()
    for of in ("sim", "tempo"):
        numbers[f"{of}_jct"] = np.round(simulated[of].records["jct_from_arrival"], 4).tolist()
    return numbers


def again(case: Case, rig: VllmRig) -> Numbers:
    """Repeats the live run of pair(): again_M for each measure M."""
    hardware, _, trace = _prepared(case, rig)
    with tempfile.TemporaryDirectory() as folder:
        return _live(case, rig, trace, hardware, Path(folder)).measured("again", trace, None)


def simulated(case: Case, rig: VllmRig, rate: float, profile: str) -> Run:
    """The simulation of a pair by a profile that is stored under this name."""
    settings = _settings(rig, load_hardware(str(live.profile_path(profile))))
    return run_one(case.workload.trace(rate, case.seed), case.policy, settings, case.seed)


def plan(cases: Sequence[Case]) -> str:
    """A sentence on the runs ahead."""
    if not cases:
        return "nothing is left to run"
    seconds = sum(VllmRig(**case.options).calibrate_s for case in cases)
    return (
        f"{len(cases)} live runs on vLLM's engine in {interpreter()}, and {seconds / 60:.0f} minutes of calibrations "
        f"(load average now {os.getloadavg()[0]:.1f}). A killed run goes on where it was, less the live run under way"
    )


def _prepared(case: Case, rig: VllmRig) -> tuple[Hardware, float, Trace]:
    """Profile, rate (requests/s) and trace of a case."""
    own = case.at["policy"] == OWN
    moment = json.dumps([to_json(replace(rig, again=False)), to_json(case.workload), case.at["policy"], case.seed])
    hardware = _calibrated(replace(rig, load=1.0, again=False), own, _longest(case.workload), moment)
    rate = rig.load * _sustained(case.workload, replace(rig, load=1.0, again=False, calibrate_s=0.0), hardware)
    return hardware, rate, case.workload.trace(rate, case.seed)


@lru_cache(maxsize=1)
def _calibrated(rig: VllmRig, own: bool, longest: int, moment: str) -> Hardware:
    """A profile of this moment (see live._moment()): of vLLM's own scheduler, or of ours under fcfs."""
    from fastserve.profiler.fit import Iteration, cells_of, fit_latency
    from fastserve.profiler.from_log import profile_of
    from fastserve.profiler.load import phases

    server = worker(rig)
    rounds = [phase.requests for phase in phases(rig.slots, longest, Random(0))]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "flight.jsonl"
        asked = None if own else _asked(rig, PolicySpec("fcfs"), log=log)
        done = server.ask(
            "load", **_places(rig), fastserve=asked, seed=0, phases=rounds, least=3, seconds=rig.calibrate_s
        )
        if not own:
            return profile_of(log).hardware
    latency = fit_latency(cells_of(Iteration(*one) for one in done["steps"]), "vLLM's own scheduler")
    tokens = (server.about["pool_blocks"] - 1) * BLOCK
    return Hardware(latency, Memory(BLOCK, tokens, 0, 0), Link(), "vLLM's own scheduler", rig.max_model_len)


def _live(case: Case, rig: VllmRig, trace: Trace, hardware: Hardware, folder: Path) -> LiveRun:
    from fastserve.profiler.fit import Iteration
    from fastserve.profiler.from_log import iterations_of

    own = case.at["policy"] == OWN
    log = folder / "flight.jsonl"
    profile = Path(_settings(rig, hardware).latency)
    requests = [[at / 1e9, int(prompt), int(output)] for at, prompt, output in
                zip(trace.arrival.tolist(), trace.prompt, trace.output, strict=True)]  # fmt: skip
    asked = None if own else _asked(rig, case.policy, log=log, profile=profile)
    told = worker(rig).ask("run", **_places(rig), fastserve=asked, seed=case.seed, requests=requests)
    iterations = [Iteration(*one) for one in told["steps"]] if own else iterations_of(log)
    found = [(first, end, int(tokens)) for first, end, tokens in told["requests"]]
    wrong = sum(tokens != asked[2] for (_, _, tokens), asked in zip(found, requests, strict=True))
    if wrong:
        raise ValueError(f"{wrong} of {len(found)} requests did not end with their length")
    return LiveRun(found, told["origin_s"], iterations, told["counts"] or {}, None if own else log)


def _checked(run: LiveRun, rig: VllmRig) -> Numbers:
    """What the log says: that the Scheduler was built as the simulation's is, and its replay and its twin."""
    assert run.log is not None
    header, lines = opened(run.log)
    wanted = asdict(rig.scheduler())
    other = {name: (wanted[name], header["settings"].get(name, wanted[name])) for name in wanted}
    differ = {name: both for name, both in other.items() if both[0] != both[1]}
    if differ:
        raise ValueError(f"the Scheduler in vLLM is not the simulated one: {differ} (simulated, live)")
    rerun = Rerun.of(header, None, run.log)
    difference = None
    for line in lines:
        difference = rerun.checked(line, run.log)
        if difference is not None:
            break
    twin = twin_of(run.log) if difference is None else None
    told = {"twin_alike": twin.alike, "twin_plans": twin.plans, "twin": str(twin)} if twin else {}
    busy = sum(one.ms for one in run.iterations) * 1e6
    return {
        "live_plans": rerun.plans, "live_replayed": float(difference is None), "replay": difference, **told,
        "live_preemptions": sum(job.preemptions for job in rerun.jobs.values()) / max(1, len(rerun.jobs)),
        "scheduler_share": run.counts.get("ours_ns", 0) / max(1.0, busy), "counts": run.counts,
    }  # fmt: skip


def _asked(rig: VllmRig, policy: PolicySpec, *, log: Path, profile: Path | None = None) -> dict[str, Any]:
    return VllmSettings(
        policy=policy.path, knobs=dict(policy.knobs), slots=rig.slots, leave="park", flight_log=str(log),
        profile=None if profile is None else str(profile),
    ).to_dict()  # fmt: skip


def _places(rig: VllmRig) -> dict[str, int]:
    return {"rows": rig.rows, "slots": rig.slots}


def _settings(rig: VllmRig, hardware: Hardware) -> LiveSettings:
    """Settings of a simulation with this hardware, which is stored under the hash of its content."""
    own = {field.name: getattr(rig.scheduler(), field.name) for field in fields(SchedulerConfig)}
    return LiveSettings(latency=str(live.stored_profile(hardware)), longest=rig.max_model_len, **own)


def _sustained(workload: Workload, rig: VllmRig, hardware: Hardware) -> float:
    """Requests/s that fcfs sustains in the simulation, by the first calibration of this workload on this rig."""
    facts = {"workload": to_json(workload), "rig": to_json(rig), "brain": fingerprint()}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = live.ROOT / "results" / "live" / f"vllm-sustained-{key}.json"
    if path.exists():
        return float(json.loads(path.read_text(encoding="utf-8"))["requests_per_s"])
    found = workload.sustained_rate(_settings(rig, hardware))
    with atomically(path) as draft:
        draft.write_text(json.dumps({"facts": facts, "requests_per_s": found, "profile": hardware.to_json()}))
    return found


def _longest(workload: Workload) -> int:
    """Tokens of the contexts that a calibration should reach: twice the 90th percentile."""
    trace = workload.trace(1.0, 0)
    return 2 * int(np.percentile(trace.prompt + trace.output, 90))


def _measured(name: str, arrival: Any, first: Any, end: Any, tokens: Any, preemptions: float | None) -> Numbers:
    jct, ttft = np.asarray(end) - arrival, np.asarray(first) - arrival
    p50, p95, p99 = np.percentile(jct, (50, 95, 99)).tolist()
    values: Iterable[float | None] = (
        float(jct.mean()), p50, p95, p99, float(ttft.mean()), float(np.percentile(ttft, 95)), preemptions,
        float(np.sum(tokens) / (np.max(end) - np.min(arrival))),
    )  # fmt: skip
    return {f"{name}_{measure}": value for measure, value in zip(MEASURES, values, strict=True)}


def _fitted(world: World, latency: LatencyModel) -> None:
    """Replaces the machine's latency model; the one that policies see stays."""
    world.machine.latency = latency
