"""Flight logs of policies that hold jobs back: ticks and ends of programs are events, the rest follows from them."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fastserve.flightlog.replay import replay_log
from fastserve.flightlog.write import FlightLog
from fastserve.sched.config import SchedulerConfig
from tests.sched.gates import GATES
from tests.sched.sharing import Answers, programs
from tests.sched.worlds import MS, build, chained, hardware, workload


def fly(path: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """A closed loop of programs in little memory. Returns the events."""
    rng = random.Random(f"{name} {seed}")
    work = workload(rng, 60, False, 4, cancels=True)
    programs(rng, work, 32)
    chained(rng, work)
    work.told = True
    options = {"max_batch": 4, "residency": "proactive", "device_blocks": 60, "host_blocks": 60, "visit": 0,
               "prefix_cache": "on", "prefix_tokens": 32, "static_timeout": 40 * MS}  # fmt: skip
    machine = hardware(False)
    policy = GATES[name](seed)
    world, _ = build(policy, work, machine, options, body=lambda *facts: Answers(*facts, work))
    config = {key: value for key, value in options.items() if key[-6:] != "blocks" and key != "static_timeout"}
    header = {
        "policy": f"tests.sched.gates:{type(policy).__name__}", "knobs": {"seed": seed},
        "hardware": machine.to_json(), "longest": max(work.prompt),
        "settings": asdict(SchedulerConfig(**config)) | {"device_blocks": 60, "host_blocks": 60, "macro": True},
    }  # fmt: skip
    world.attach(FlightLog(path, header))
    world.run()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", GATES)
def test_every_plan_is_reproduced(name: str, seed: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    events = fly(path, name, seed)
    kinds = {event.get("event") for event in events}
    assert "end_program" in kinds
    assert any(event.get("tool") for event in events) and any(event.get("final") for event in events)
    assert any("calls" in event for event in events)
    report = replay_log(path)
    assert report.difference is None
    assert report.plans == sum(event.get("event") == "plan" for event in events)


@pytest.mark.parametrize("left_out", ["tick", "end_program"])
def test_without_these_events_the_plans_are_others(left_out: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    differ = 0
    for seed in range(6):
        events = [event for event in fly(path, "gate", seed) if event.get("event") != left_out]
        path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
        differ += replay_log(path).difference is not None
    assert differ
