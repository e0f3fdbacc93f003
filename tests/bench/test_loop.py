"""The loop, against APIs that answer when they are told to. Nothing here depends on how long anything takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

import pytest

from fastserve.bench import Call, Progress, Reply, Result, run
from tests.bench.calls import call


class Held:
    """Answers nothing before `needed` requests have come; then all of them. Keeps the order and the most at once."""

    def __init__(self, needed: int = 1) -> None:
        self.needed = needed
        self.came: list[int] = []
        self.running = self.most = 0
        self.open = asyncio.Event()

    def encode(self, call: Call) -> bytes:
        return str(call.request.id).encode()

    async def send(self, message: bytes, reply: Reply) -> None:
        reply.sent = perf_counter_ns()
        self.came.append(int(message))
        self.running += 1
        self.most = max(self.most, self.running)
        if len(self.came) >= self.needed:
            self.open.set()
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        reply.stamps.append(perf_counter_ns())
        reply.finish = "length"


def go(work: Callable[[], asyncio.Future[Result] | object]) -> Result:
    async def bounded() -> Result:
        async with asyncio.timeout(30):
            return await work()  # type: ignore[misc, no-any-return]

    return asyncio.run(bounded())


def test_slow_answers_never_close_the_loop() -> None:
    """Nobody is answered before the last one has been sent."""
    calls = [call(i, due_ms=i / 10) for i in range(50)]
    held: list[Held] = []

    async def work() -> Result:
        held.append(Held(needed=50))
        return await run(calls, held[0])

    result = go(work)
    assert held[0].came == list(range(50))
    assert len(result.completed) == 50
    assert (result.loop, result.interrupted, result.planned) == ("open", False, 50)


def test_nothing_is_sent_before_it_is_due_and_arrivals_are_the_schedule() -> None:
    calls = [call(i, due_ms=due) for i, due in enumerate([0, 0, 3.5, 3.5, 20])]
    result = go(lambda: run(calls, Held()))
    assert all(sample.lag >= 0 for sample in result.samples)
    assert [sample.arrival - result.started for sample in result.samples] == [0, 0, 3_500_000, 3_500_000, 20_000_000]
    assert all(sample.reply.sent >= sample.arrival for sample in result.samples)


def test_closed_loop() -> None:
    """All due at once, two slots: never more than two, and a call arrives when an earlier one has ended."""
    apis: list[Held] = []

    async def work() -> Result:
        apis.append(Held(needed=2))
        return await run([call(i) for i in range(20)], apis[0], max_concurrency=2)

    result = go(work)
    assert (result.loop, apis[0].most) == ("closed", 2)
    ends = sorted(sample.reply.closed for sample in result.samples)
    arrivals = [sample.arrival for sample in result.samples]
    assert arrivals[:2] == [result.started] * 2
    assert arrivals[2:] == ends[:-2]


def test_a_capped_loop_counts_the_wait_for_a_slot() -> None:
    apis: list[Held] = []

    async def work() -> Result:
        apis.append(Held())
        return await run([call(i, due_ms=i / 10) for i in range(20)], apis[0], max_concurrency=1)

    result = go(work)
    assert (result.loop, apis[0].most) == ("capped", 1)
    for i, sample in enumerate(result.samples):
        assert sample.arrival == result.started + round(i * 1e5)
        assert sample.ready >= sample.arrival
    for before, after in zip(result.samples, result.samples[1:], strict=False):
        assert after.ready >= before.reply.closed


def test_stop_keeps_what_there_is() -> None:
    """Three of five are answered, one is under way, one is not due for an hour."""

    async def work() -> Result:
        stop = asyncio.Event()

        class Stops(Held):
            async def send(self, message: bytes, reply: Reply) -> None:
                if message == b"3":
                    reply.sent = perf_counter_ns()
                    stop.set()
                    await asyncio.Event().wait()
                await super().send(message, reply)

        due = [0, 0, 0, 1, 3_600_000]
        return await run([call(i, due_ms=ms) for i, ms in enumerate(due)], Stops(), stop=stop)

    result = go(work)
    assert result.interrupted
    assert [sample.call.request.id for sample in result.samples] == [0, 1, 2, 3]
    assert [sample.reply.finish for sample in result.samples] == ["length"] * 3 + ["unfinished"]
    assert "stopped" in result.samples[3].reply.error
    assert result.planned - len(result.samples) == 1
    assert result.columns()["finish"].tolist() == ["length"] * 3 + ["unfinished"]


def test_a_request_that_takes_too_long_is_given_up() -> None:
    result = go(lambda: run([call(0)], Held(needed=2), timeout_s=0.01))
    assert (result.samples[0].reply.finish, result.interrupted) == ("unfinished", False)
    assert "within 0.01 s" in result.samples[0].reply.error


def test_a_backend_that_breaks_ends_the_run() -> None:
    class Broken(Held):
        async def send(self, message: bytes, reply: Reply) -> None:
            raise RuntimeError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        go(lambda: run([call(0), call(1, due_ms=3_600_000)], Broken()))
    assert caught.group_contains(RuntimeError, match="a bug")


def test_progress() -> None:
    seen: list[Progress] = []
    go(lambda: run([call(i) for i in range(5)], Held(), watch=seen.append))
    (progress,) = seen
    assert (progress.total, progress.done, progress.failed, progress.running, progress.tokens) == (5, 5, 0, 0, 5)


def test_an_empty_schedule() -> None:
    result = go(lambda: run([], Held()))
    assert (result.samples, result.planned, result.duration_s, result.late) == ([], 0, 0.0, False)


@pytest.mark.parametrize(
    ("calls", "fields", "why"),
    [([call(0, due_ms=1), call(1)], {}, "in order"), ([call(0)], {"max_concurrency": 0}, "no slot")],
)
def test_refusals(calls: list[Call], fields: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        go(lambda: run(calls, Held(), **fields))  # type: ignore[arg-type]
