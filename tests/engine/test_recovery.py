"""Steps that fail, on the scripted body: who pays for them, and what becomes of the batch cap."""

import logging
from pathlib import Path

import pytest

from fastserve import Job
from fastserve.engine import Engine, SamplingParams
from fastserve.engine.recovery import MAX_FAILED_STEPS, PATIENCE
from fastserve.engine.request import Handle
from fastserve.flightlog.replay import replay_log


def at_once(engine: Engine, count: int, tokens: int = 10) -> list[Handle]:
    """Requests that are all there before the first begins."""
    with engine.inbox.condition:
        return [engine.submit("x", SamplingParams(max_tokens=tokens, seed=i)) for i in range(count)]


def tokens_of(handles: list[Handle]) -> list[list[int]]:
    outputs = [handle.result(60) for handle in handles]
    assert {output.finish_reason for output in outputs} == {"length"}
    return [output.token_ids for output in outputs]


class Full:
    """A device that has no room for a step in which this job draws its token of this index; each is met once."""

    def __init__(self, *moments: tuple[int, int]) -> None:
        self.moments = list(moments)

    def __call__(self, job: Job, index: int) -> None:
        if (job.id, index) in self.moments:
            self.moments.remove((job.id, index))
            raise MemoryError("as asked")


def test_out_of_memory_halves_the_batch_and_all_end_well() -> None:
    with Engine.scripted(max_batch=8) as engine:
        calm = tokens_of(at_once(engine, 8))
    with Engine.scripted(fail=Full((0, 3)), max_batch=8) as engine:
        assert tokens_of(at_once(engine, 8)) == calm
        assert engine.counters["oom"] == 1
        assert engine.counters["slots"] == engine.snapshot().slots == 4


def test_the_batch_cap_rises_again_after_ever_longer_calm(tmp_path: Path) -> None:
    """Each shortage doubles the full steps that must go well; a step with a slot free proves nothing."""
    path = tmp_path / "flight.jsonl"
    shortages = Full((0, 3), (0, PATIENCE + 20))
    seen: list[tuple[int, int]] = []
    with Engine.scripted(fail=shortages, policy="fcfs", max_batch=4, flight_log=path) as engine:
        resize = engine.loop.scheduler.resize

        def spy(slots: int) -> None:
            seen.append((engine.loop.steps, slots))
            resize(slots)

        engine.loop.scheduler.resize = spy  # type: ignore[method-assign]
        tokens_of(at_once(engine, 4, 2000))
        assert engine.counters["slots"] == 4
    (first, two), (second, four), (third, again), (fourth, last) = seen
    assert (two, four, again, last) == (2, 4, 2, 4)
    assert second - first == PATIENCE
    assert third > second
    assert fourth - third == 2 * PATIENCE
    report = replay_log(path)
    assert report.difference is None
    assert report.plans > 2000


def test_a_batch_that_is_not_full_raises_no_cap() -> None:
    with Engine.scripted(fail=Full((0, 3)), policy="fcfs", max_batch=4) as engine:
        tokens_of(at_once(engine, 4))
        tokens_of(at_once(engine, 1, 2 * PATIENCE))
        assert engine.counters["slots"] == 2


def test_out_of_memory_for_one_alone_fails_it() -> None:
    with Engine.scripted(fail=Full((0, 0)), max_batch=4) as engine:
        first = engine.generate("x", SamplingParams(max_tokens=10))[0]
        assert (first.finish_reason, first.error) == ("error", "out of memory: as asked")
        assert engine.counters["slots"] == 4
        tokens_of(at_once(engine, 2))


@pytest.mark.parametrize("steps", [MAX_FAILED_STEPS - 1, MAX_FAILED_STEPS])
def test_a_device_that_fails_every_step_stops_the_engine(steps: int, caplog: pytest.LogCaptureFixture) -> None:
    broken = {step: OSError("the device is gone") for step in range(steps)}
    with caplog.at_level(logging.CRITICAL, "fastserve"), Engine.scripted(max_batch=1, fail_step=broken) as engine:
        outputs = [handle.result(10) for handle in at_once(engine, MAX_FAILED_STEPS + 2)]
        assert [output.finish_reason for output in outputs[:steps]] == ["error"] * steps
        assert [output.by_step for output in outputs] == [True] * steps + [False] * (MAX_FAILED_STEPS + 2 - steps)
        if steps < MAX_FAILED_STEPS:
            assert [output.finish_reason for output in outputs[steps:]] == ["length"] * 3
            assert engine.alive
        else:
            engine._lifecycle.thread.join(10)
            said = "steps in a row have failed, the last one with OSError: the device is gone"
            assert engine.error == f"{MAX_FAILED_STEPS} {said}"
            assert {output.error for output in outputs[steps:]} == {engine.error}
