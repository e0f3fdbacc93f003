"""experiments.fidelity --backend vllm, with a worker that is a machine known to the digit instead of vLLM."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments import fidelity, fidelity_vllm
from experiments._lib import errors, live, sweep, vllm_pair
from experiments._lib.case import Case, Row, Workload, points
from experiments._lib.sweep import Outcome
from fastserve.flightlog.write import FlightLog
from fastserve.hardware import DecodePiece, Hardware, LinearLatency, Link, Memory, PrefillFit
from fastserve.policies.spec import PolicySpec
from fastserve.sched.config import SchedulerConfig
from fastserve.sched.observer import Observer
from fastserve.workload import Trace
from sim.run import run_one
from sim.settings import Settings

TRUTH = LinearLatency(PrefillFit(6.0, 0.05, 0.0), [DecodePiece(1, 5.0, 0.3, 0.001)], "known")
POOL = 600  # blocks
ORIGIN = 1000  # s on the clock of vLLM's machine at which a run begins


class Steps(Observer):
    """What the stop-watch of vLLM's own scheduler notes."""

    def __init__(self) -> None:
        self.noted: list[list[float]] = []

    def committed(self, plan: Any, outcome: Any, finished: Any, now: int) -> None:
        chunks = sum(tokens for _, tokens in plan.prefill)
        self.noted.append([plan.batch, plan.context, chunks, chunks**2, outcome.service / 1e6, ORIGIN + plan.now / 1e9])


class LateLog(FlightLog):
    """On the clock of vLLM's machine, and one iteration a plan, as vLLM makes it."""

    def _tell(self, data: dict[str, Any]) -> None:
        late = {name: data[name] + ORIGIN * 10**9 for name in ("now", "arrival") if name in data}
        super()._tell(data | late)


class Pretender:
    """For the worker: runs everything on a modelled machine."""

    about: dict[str, Any]

    def __init__(self, folder: Path, rig: vllm_pair.VllmRig, **other: Any) -> None:
        self.about = {"vllm": "none", "pool_blocks": POOL + 1}
        self.rig = rig
        self.folder = folder
        self.other = other
        self.hardware = Hardware(TRUTH, Memory(32, 32 * POOL, 0), Link(), "known", rig.max_model_len)
        self.hardware.save(folder / "known.json")

    def ask(self, do: str, **told: Any) -> dict[str, Any]:
        if do == "load":
            requests = [[0.3 * at, *request] for at, phase in enumerate(told["phases"]) for request in phase]
        else:
            requests = told["requests"]
        at, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
        trace = Trace("asked", "a test", (at * 1e9).astype(np.int64), prompt.astype(np.int64), output.astype(np.int64))
        asked = told["fastserve"]
        spec = PolicySpec("fcfs") if asked is None else PolicySpec(asked["policy"], asked.get("knobs", {}))
        own = {field.name: getattr(self.rig.scheduler(), field.name) for field in fields(SchedulerConfig)}
        settings = vllm_pair.LiveSettings(
            latency=str(self.folder / "known.json"), longest=self.rig.max_model_len, **own
        )
        steps = Steps()

        def observe(world: Any) -> None:
            world.attach(steps)
            world.scheduler.macro = False
            if asked is not None:
                shown = {**own, "device_blocks": POOL, "host_blocks": 0, "macro": False, **self.other}
                header = {
                    "backend": "vllm", "vllm": "none", "policy": spec.path, "knobs": {}, "settings": shown,
                    "hardware": self.hardware.to_json(), "longest": self.rig.max_model_len,
                    "context": self.rig.max_model_len,
                }  # fmt: skip
                world.attach(LateLog(asked["flight_log"], header))

        records = run_one(trace, spec, settings, told["seed"], observe=observe).records
        found = zip(records["first_token"], records["end"], records["output_tokens"], strict=True)
        return {
            "requests": [[float(first), float(end), int(tokens)] for first, end, tokens in found],
            "origin_s": ORIGIN, "steps": None if asked else steps.noted, "counts": {"ours_ns": 1000},
        }  # fmt: skip


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> vllm_pair.VllmRig:
    rig = vllm_pair.VllmRig(slots=2, rows=8, max_model_len=512, calibrate_s=0.1, load=0.9)
    monkeypatch.setattr(live, "ROOT", tmp_path)
    monkeypatch.setattr(vllm_pair, "worker", lambda asked: Pretender(tmp_path, asked))
    vllm_pair._calibrated.cache_clear()
    return rig


WORKLOAD = Workload(requests=40, lengths="", prompt="lognormal:3,0.6,8,64", output="lognormal:2.5,1,1,60")


def case(policy: str, rig: vllm_pair.VllmRig) -> Case:
    spec = PolicySpec("fcfs" if policy == vllm_pair.OWN else policy)
    return Case(at={"policy": policy, "slots": 2}, workload=WORKLOAD, settings=Settings(load=0.9), policy=spec,
                options=asdict(rig))  # fmt: skip


@pytest.mark.parametrize("policy", fidelity_vllm.POLICIES)
def test_a_known_machine_is_predicted(policy: str, rig: vllm_pair.VllmRig) -> None:
    numbers = fidelity_vllm.run(case(policy, rig))
    for of in ("sim", "tempo", "hindsight"):
        assert numbers[f"{of}_mean_jct_s"] == pytest.approx(numbers["live_mean_jct_s"], rel=0.02)
        assert numbers[f"{of}_p95_jct_s"] == pytest.approx(numbers["live_p95_jct_s"], rel=0.04)
        assert numbers[f"{of}_mean_ttft_s"] == pytest.approx(numbers["live_mean_ttft_s"], rel=0.06)
    assert np.mean(numbers["tempo"]) == pytest.approx(1.0, abs=0.02)
    assert len(numbers["live_jct"]) == len(numbers["sim_jct"]) == len(numbers["tempo_jct"]) == 40
    assert numbers["load_now"] == pytest.approx(0.9)
    if policy == vllm_pair.OWN:
        assert "live_plans" not in numbers
        return
    assert numbers["live_replayed"] == 1.0 and numbers["twin_alike"] == numbers["twin_plans"] > 40
    assert numbers["pool"] == 32 * POOL
    assert numbers["live_preemptions_per_job"] == pytest.approx(numbers["sim_preemptions_per_job"], abs=0.1)
    once_more = vllm_pair.simulated(case(policy, rig), rig, numbers["rate"], numbers["profile"])
    assert once_more.summary["mean_jct_s"] == pytest.approx(numbers["sim_mean_jct_s"])
    second = fidelity_vllm.run(case(policy, replace(rig, again=True)))
    assert second["again_mean_jct_s"] == pytest.approx(numbers["live_mean_jct_s"])


def test_a_scheduler_that_was_built_otherwise_is_refused(
    rig: vllm_pair.VllmRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_pair, "worker", lambda asked: Pretender(tmp_path, asked, visit=3))
    with pytest.raises(ValueError, match=r"not the simulated one: \{'visit': \(64, 3\)\}"):
        fidelity_vllm.run(case("fcfs", rig))


def test_a_worker_that_dies_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\nfor line in sys.stdin:\n    asked = json.loads(line)\n"
        "    if asked['do'] == 'run': sys.exit('no more memory')\n    print('{}', flush=True)\n"
    )
    monkeypatch.setattr(live, "ROOT", tmp_path)
    monkeypatch.setattr(vllm_pair, "WORKER", script)
    monkeypatch.setenv("FASTSERVE_VLLM_PYTHON", sys.executable)
    worker = vllm_pair.Worker({})
    try:
        assert worker.about == {}
        with pytest.raises(ValueError, match=r"vLLM: it has ended\n[\s\S]*no more memory"):
            worker.ask("run")
    finally:
        worker.close()


def test_every_cell_runs_in_each_pair_and_fcfs_twice() -> None:
    scale = fidelity_vllm.SCALES["small"]
    cases = fidelity_vllm.cases(scale)
    assert len(cases) == scale.pairs * 2 * (len(fidelity_vllm.POLICIES) + 1)
    assert {one.at["slots"] for one in cases} == {4, 16} and scale.pairs >= 3
    assert {one.options["rows"] for one in cases if one.at["slots"] == 16} == {256}
    again = [one for one in cases if "again" in one.at]
    assert {one.at["policy"] for one in again} == {"fcfs"} and all(one.options["again"] for one in again)
    assert max(one.options["rows"] for one in cases) <= scale.rig.most_rows


def rows() -> list[Row]:
    found = []
    for policy, live_s, told in (("vllm", 2.0, 2.1), ("fcfs", 2.1, 2.2), ("srpt", 1.0, 1.5)):
        for seed in range(3):
            numbers: dict[str, Any] = {
                f"{of}_{measure}": value + seed / 10
                for of, value in (("live", live_s), ("sim", told), ("tempo", live_s), ("hindsight", live_s))
                for measure in errors.ERRORS
            }
            numbers |= {"rate": 1.0, "load_now": 0.9, "load_average": 1.0, "scheduler_share": 0.01, "drift": {},
                        "tempo": [1.0], "live_plans": 10, "live_replayed": 1.0, "replay": None}  # fmt: skip
            found.append(Row({"policy": policy, "slots": 4}, seed, numbers))
    return found


def test_the_document_has_the_order_of_policies_the_replays_and_the_twins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"provenance": {}, "settings": {}}))
    monkeypatch.setattr(fidelity_vllm, "_steady", lambda outcome: [(row, {"steady_mean_jct_s": 1.0}) for row in rows()])
    found = fidelity_vllm.told(Outcome("fidelity_vllm", "small", tmp_path, rows(), 1.0))
    json.dumps(found, allow_nan=False)
    assert found["ranking_equal"] is True and found["pairs_that_live_runs_rank"] == 2
    assert found["pairs_in_the_live_order"] == {"sim": "9 of 9", "tempo": "9 of 9"}
    assert found["replays"] == {"plans": 60, "reproduced": True, "differences": []}
    assert len(found["twins"]) == 6
    fcfs, srpt = found["gains_over_vllm"]
    assert (fcfs["policy"], fcfs["steady"], fcfs["live"][0]) == ("fcfs", [1.0, None, None], pytest.approx(2.1 / 2.2))
    assert srpt["sim"][0] == pytest.approx(2.2 / 1.6) and srpt["live"][0] == pytest.approx(2.1 / 1.1)
    wrong = [replace(row, numbers=row.numbers | {"sim_mean_jct_s": 9.0}) if row.at["policy"] == "srpt" else row
             for row in rows()]  # fmt: skip
    assert errors.misranked(points(wrong)) == ["vllm and srpt at 4 slots", "fcfs and srpt at 4 slots"]
    assert errors.same_order(points(wrong)) == "3 of 9"
    assert len(fidelity_vllm.claims(rows())) == 9


def test_the_command_of_fidelity_takes_both_backends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(fidelity, "show", lambda args, name: asked.append((name, args.scale)))
    assert sweep.main("fidelity", ["--backend", "vllm", "--scale", "smoke"]) == 0
    assert asked == [("fidelity_vllm", "smoke")]
    assert sweep.main("fidelity", ["--backend", "vllm", "--doubts"]) == 2
    with pytest.raises(SystemExit):
        sweep.main("fidelity", ["--backend", "ray"])
    assert "invalid choice: 'ray'" in capsys.readouterr().err


def test_without_vllm_it_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_VLLM_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="FASTSERVE_VLLM_PYTHON"):
        vllm_pair.plan([SimpleNamespace(options=asdict(vllm_pair.VllmRig()))])  # type: ignore[list-item]
    assert len(vllm_pair.here()) == 16
    assert "PATH" in os.environ
