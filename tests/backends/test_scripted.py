"""The scripted body: what it says, how long it takes, and how it is made to fail."""

from __future__ import annotations

import logging

import pytest

from fastserve.backends.scripted import PRINTABLE, ScriptedBackend, draw, with_pools
from fastserve.engine import Engine, SamplingParams
from fastserve.engine.backend import Wanted
from fastserve.hardware import load_hardware
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan

LONG = SamplingParams(max_tokens=8, seed=3)


def test_tokens_depend_on_seed_and_index_alone() -> None:
    with Engine.scripted(policy="fcfs", max_batch=2) as engine:
        outputs = engine.generate(["x", "another prompt", "y"], LONG)
    want = [PRINTABLE[draw(3, index) % len(PRINTABLE)] for index in range(8)]
    assert [output.token_ids for output in outputs] == [want] * 3


def test_it_takes_the_modelled_time() -> None:
    latency = load_hardware("opt-13b-a100").latency
    with Engine.scripted(policy="fcfs") as engine:
        record = engine.generate("x" * 100, LONG)[0].record
    assert record["jct_from_arrival"] == pytest.approx(latency.alone_ps(100, 8, None) / 1e12, abs=1e-8)


def test_logprobs() -> None:
    with Engine.scripted() as engine:
        output = engine.generate("x", SamplingParams(max_tokens=2, seed=3, logprobs=2))[0]
    assert output.logprobs is not None
    for token, top in zip(output.token_ids, output.logprobs, strict=True):
        assert sorted(top.values()) == [-2.0, -1.0]
        assert top[token] == -1.0


def test_a_jobs_failure_is_its_own() -> None:
    def fail(job: Job, index: int) -> None:
        if (job.id, index) == (0, 3):
            raise OSError("as asked")

    with Engine.scripted(fail=fail) as engine:
        bad, good = engine.generate(["x", "x"], LONG)
    assert (bad.error, len(bad.token_ids), good.finish_reason) == ("OSError: as asked", 3, "length")


@pytest.mark.parametrize("how", ["data", "call"])
def test_whole_steps_fail_by_number_or_by_plan(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waited goes on; a shortage of memory costs places and no request."""

    def call(plan: Plan) -> None:
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error

    errors: list[Exception | None] = [None, OSError("the device is gone"), None, MemoryError("full")]
    data = {step: error for step, error in enumerate(errors) if error is not None}
    with (
        caplog.at_level(logging.CRITICAL, "fastserve"),
        Engine.scripted(policy="fcfs", max_batch=2, fail_step=data if how == "data" else call) as engine,
    ):
        outputs = engine.generate(["x"] * 4, LONG)
        assert [output.error for output in outputs] == ["OSError: the device is gone"] * 2 + [None] * 2
        assert [output.by_step for output in outputs] == [True, True, False, False]
        assert engine.counters["failed_steps"] == engine.counters["oom"] == 1


def test_pools_are_whole_blocks_of_what_is_wanted() -> None:
    machine = load_hardware("opt-13b-a100")
    memory = with_pools(machine, Wanted(16, 100, 33)).memory
    assert memory.device_tokens == 112
    assert memory.host_blocks == 3
    own = ScriptedBackend(hardware=machine).hardware().memory
    assert own == machine.memory
