"""A profile from a flight log: the machine that made the log comes back, whatever ran on it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fastserve.__main__ import main
from fastserve.engine import Engine, SamplingParams
from fastserve.flightlog.lines import LogError
from fastserve.flightlog.write import FlightLog
from fastserve.hardware import (
    DecodePiece,
    Hardware,
    LinearLatency,
    Link,
    Memory,
    PrefillFit,
    hardware_from_json,
    load_hardware,
)
from fastserve.policies.spec import PolicySpec
from fastserve.profiler.fit import Iteration
from fastserve.profiler.from_log import iterations_of, profile_of
from fastserve.profiler.load import Meter
from fastserve.workload import synthesise
from sim.run import run_one
from sim.settings import Settings

TRUTH = LinearLatency(PrefillFit(9.0, 0.4, 3e-4), [DecodePiece(1, 5.0, 0.25, 0.004)], "known")
SETTINGS = {"max_batch": 4, "batching": "chunked", "token_budget": 64, "residency": "recompute", "block_tokens": 16}


def simulated(folder: Path, policy: str = "srpt", macro: bool = True, **changes: Any) -> Path:
    """The flight log of a simulation on a machine that is known to the digit."""
    machine, path = folder / "machine.json", folder / "flight.jsonl"
    hardware = Hardware(TRUTH, Memory(16, 4096, 10**9, 1000), Link(), "known", 2048)
    hardware.save(machine)
    own = SETTINGS | changes
    header = {
        "backend": "vllm", "policy": policy, "knobs": {}, "hardware": hardware.to_json(), "longest": 200,
        "context": 2048,
        "settings": {**own, "device_blocks": 256, "host_blocks": 0, "macro": macro},
    }  # fmt: skip
    trace = synthesise(150, rate=6.0, prompt="lognormal:4,1,4,200", output="lognormal:2,0.9,1,60", seed=3)
    settings = Settings(latency=str(machine), **own)
    run_one(trace, PolicySpec(policy), settings, 3, observe=lambda world: world.attach(FlightLog(path, header)))
    return path


@pytest.mark.parametrize("policy", ["fcfs", "srpt"])
def test_the_coefficients_of_the_machine_come_back(policy: str, tmp_path: Path) -> None:
    path = simulated(tmp_path, policy)
    assert any(json.loads(line).get("iterations", 1) > 1 for line in path.read_text().splitlines()), "macro plans too"
    found = profile_of(path)
    fitted = found.hardware.latency
    assert isinstance(fitted, LinearLatency)
    assert fitted.prefill.ms == pytest.approx(9.0, rel=0.01)
    assert fitted.prefill.ms_per_token == pytest.approx(0.4, rel=0.01)
    assert fitted.prefill.ms_per_squared_token == pytest.approx(3e-4, rel=0.02)
    assert len(fitted.decode) == 1
    assert fitted.decode[0].ms == pytest.approx(5.0, rel=0.01)
    assert fitted.decode[0].ms_per_sequence == pytest.approx(0.25, rel=0.03)
    assert fitted.decode[0].ms_per_context_token == pytest.approx(0.004, rel=0.01)
    assert {kind: one.median < 0.001 for kind, one in found.residuals.items()} == dict.fromkeys(
        ("prefill", "decode", "mixed"), True
    )
    assert found.hardware.memory.device_tokens == 4096 and found.hardware.context == 2048


@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
@pytest.mark.parametrize("prefix_cache", ["off", "on"])
def test_a_log_has_the_iterations_that_a_meter_noted(residency: str, prefix_cache: str, tmp_path: Path) -> None:
    """Begins of chunks included, of those who were dropped, parked, found and cancelled."""
    rng = random.Random(residency)
    path = tmp_path / "log"
    shared = [[65 + i] * 150 for i in range(3)]
    with Engine.scripted(
        policy="sj-mlfq", flight_log=path, max_batch=4, kv_tokens=1600, host_tokens=3000, visit=0, token_budget=64,
        residency=residency, prefix_cache=prefix_cache, predictor="client",
    ) as engine:  # fmt: skip
        meter = Meter.attach(engine)
        handles = []
        for _ in range(50):
            tokens = rng.randint(1, 60)
            prompt = rng.choice(shared) + [65 + rng.randrange(5)] * rng.randint(1, 200)
            handles.append(engine.submit(prompt, SamplingParams(max_tokens=tokens, guess=tokens)))
        for handle in handles[::9]:
            handle.cancel()
        for handle in handles:
            handle.result()
        noted = meter.iterations()
    assert iterations_of(path) == noted
    assert any(one.squared > one.tokens**2 for one in noted), "chunks that begin later"


def event(what: str, now: int, **more: Any) -> str:
    return json.dumps({"event": what, "now": now, **more}) + "\n"


def planned(prefill: list[list[int]], batch: int = 0, context: int = 0, **more: Any) -> dict[str, Any]:
    return {"prefill": prefill, "drop": [], "batch": batch, "context": context, **more}


def committed(now: int, service: int) -> str:
    return event("commit", now, iterations=1, service=service)


def test_what_the_body_did_counts_not_what_was_planned(tmp_path: Path) -> None:
    """A chunk that was cut, a prefix that was found elsewhere, a job that was lost, a step in which nothing ran."""
    path = tmp_path / "log"
    path.write_text(
        '{"flight_log": 1}\n'
        + event("plan", 10**9, plan=planned([[1, 64], [2, 10]]))
        + event("amend", 10**9, plan=planned([[1, 32]]), found=[])
        + committed(2 * 10**9, 5_000_000)
        + event("plan", 2 * 10**9, plan=planned([[1, 64], [2, 10]]))
        + event("amend", 2 * 10**9, plan=planned([[1, 64], [2, 10]]), found=[[2, 48]])
        + committed(3 * 10**9, 6_000_000)
        + event("plan", 3 * 10**9, plan=planned([], 2, 200))
        + event("amend", 3 * 10**9, plan=planned([], drop=[1, 2]), found=[])
        + committed(4 * 10**9, 7_000_000)
        + event("plan", 4 * 10**9, plan=planned([[1, 8]], 1, 9))
        + committed(5 * 10**9, 8_000_000)
    )
    assert [one[2:6] for one in iterations_of(path)] == [
        (32, 32**2, 5.0, 1.0),
        (74, 96**2 - 32**2 + 58**2 - 48**2, 6.0, 2.0),
        (8, 64, 8.0, 4.0),
    ]


def test_a_body_that_plans_ahead_tells_each_time_one_commit_late(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        '{"flight_log": 1, "ahead": true}\n'
        + event("plan", 10**9, plan=planned([[1, 64]]))
        + committed(2 * 10**9, 0)
        + event("plan", 2 * 10**9, plan=planned([], 1, 65))
        + committed(3 * 10**9, 9_000_000)
        + event("plan", 3 * 10**9, plan=planned([], 1, 66))
        + committed(4 * 10**9, 4_000_000)
    )
    assert iterations_of(path) == [Iteration(0, 0, 64, 64**2, 9.0, 1.0), Iteration(1, 65, 0, 0, 4.0, 2.0)]


def test_the_pool_of_vllm_is_not_that_of_the_profile_it_was_given(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    lines = path.read_text().splitlines()
    header = json.loads(lines[0])
    header |= {"vllm": "0.32.0", "hardware": load_hardware("opt-13b-a100").to_json(), "context": 777}
    header["settings"] |= {"device_blocks": 90, "block_tokens": 32}
    path.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    hardware = profile_of(path).hardware
    assert (hardware.memory.block_tokens, hardware.memory.device_tokens) == (32, 90 * 32)
    assert hardware.memory.host_blocks == 0 and hardware.context == 777
    assert hardware.name == "vllm 0.32.0, from flight.jsonl"


def test_a_log_whose_writer_was_killed_is_good_up_to_there(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    whole, text = iterations_of(path), path.read_text()
    path.write_text(text[: len(text) * 2 // 3].rstrip("\n")[:-1])
    found = iterations_of(path)
    assert 100 < len(found) < len(whole) and found == whole[: len(found)]
    assert profile_of(path).hardware.latency.iteration_ps(4, 400, ()) == pytest.approx(7.6e9, rel=0.01)


def test_a_damaged_log_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"flight_log": 1}\n' + committed(1, 1))
    with pytest.raises(LogError, match="line 2: a commit without a plan"):
        iterations_of(path)
    path.write_text('{"flight_log": 1}\n' + event("plan", 1, plan={}) + committed(1, 1))
    with pytest.raises(LogError, match="line 3: KeyError 'drop'"):
        iterations_of(path)
    path.write_text('{"flight_log": 1}\n' + event("plan", 1, plan={}) + event("amend", 1, plan=7, found=[]))
    with pytest.raises(LogError, match="line 3: AttributeError"):
        iterations_of(path)


@pytest.mark.parametrize("flag", ["--from-log", "--vllm"])
def test_the_command_stores_a_file_that_every_command_reads(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, out = simulated(tmp_path), tmp_path / "vllm.json"
    assert main(["profile", flag, str(path), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["log"] == str(path) and document["format"] == "profile/1"
    assert document["warnings"] == []
    assert document["kept"][-1] == str(out)
    assert len(document["kept"]) == 2 and load_hardware(document["kept"][0]).to_json() == document["hardware"]
    hardware = hardware_from_json(json.loads(out.read_text()))
    assert hardware.latency.iteration_ps(4, 400, ()) == pytest.approx(7.6e9, rel=0.01)
    assert "--from-log flight.jsonl" in hardware.provenance
    assert main(["profile", flag, str(path), "--no-store"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{path}: linear model fitted") and "decode" in said and "stored:" not in said


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--vllm", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "log").write_text("{}\n")
    assert main(["profile", "--vllm", str(tmp_path / "log")]) == 2
    assert "is no flight log" in capsys.readouterr().err
    assert main(["profile", "--vllm", str(tmp_path / "log"), "--budget", "3"]) == 2
    assert "leave one of them out" in capsys.readouterr().err
    path = simulated(tmp_path)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert main(["profile", "--vllm", str(path)]) == 2
    assert "needs decode iterations" in capsys.readouterr().err


def test_the_settings_of_the_header_build_the_same_scheduler(tmp_path: Path) -> None:
    """What this file writes as a header is one."""
    from fastserve.flightlog.replay import replay_log

    assert replay_log(simulated(tmp_path)).difference is None
