"""run(): sends a schedule of calls on time (open loop, optionally with a concurrency limit)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence, Sized
from itertools import pairwise
from time import perf_counter_ns, time
from typing import Any, Protocol

from fastserve.bench.call import Call, Reply
from fastserve.bench.result import Loop, Result, Sample
from fastserve.metrics.finish import GAVE_UP
from fastserve.workload.session import Sessions

HEAD_START = 50_000_000
"""ns from the call of run() to the start of the schedule."""


class Api(Protocol):
    """Sends calls to a server."""

    def encode(self, call: Call) -> bytes: ...

    async def send(self, message: bytes, reply: Reply) -> None:
        """Sets `reply.sent`, then fills `reply` until the response is complete. A failure is recorded there."""


class Progress:
    """Progress of a run. Written by run(), read by `watch`."""

    def __init__(self, calls: Sized) -> None:
        self.total = len(calls)
        self.started = 0  # perf_counter ns
        self.samples: list[Sample] = []  # of the calls sent
        self.done = 0
        self.failed = 0
        self.tokens = 0  # of completed responses

    @property
    def running(self) -> int:
        return len(self.samples) - self.done


async def run(
    calls: Sequence[Call],
    api: Api,
    *,
    max_concurrency: int | None = None,
    timeout_s: float | None = None,
    stop: asyncio.Event | None = None,
    watch: Callable[[Progress], object] | None = None,
) -> Result:
    """Sends each call when it is due and returns when all have ended.

    Open loop: call i is sent at start + due, however slow the server is, on as many connections as needed. With
    max_concurrency, a call also waits for one of so many slots. If all calls are due at once the loop is then closed: a
    call arrives when its slot becomes free. Otherwise it arrives when it is due, and waiting for a slot is part of its
    time.

    timeout_s: a request that takes longer from its send is aborted and counts as unfinished. stop: once set, nothing
    more is sent, and requests in flight are aborted; the result holds the rest. watch: called once, at the start.
    Raises ValueError for calls out of order, and exceptions of the api in an ExceptionGroup.
    """
    if any(later.due < earlier.due for earlier, later in pairwise(calls)):
        raise ValueError("the calls must be in order of their due times")
    if max_concurrency is not None and max_concurrency < 1:
        raise ValueError(f"max_concurrency={max_concurrency} leaves no slot; give at least 1, or None")
    closed = max_concurrency is not None and bool(calls) and calls[-1].due == calls[0].due
    loop: Loop = "closed" if closed else "open" if max_concurrency is None else "capped"
    progress = Progress(calls)
    progress.started = perf_counter_ns() + HEAD_START
    date = time() + HEAD_START / 1e9
    if watch is not None:
        watch(progress)
    slots = None if max_concurrency is None else Slots(max_concurrency, progress.started)
    interrupted = await until_stopped(_send_all(calls, api, progress, slots, closed, timeout_s), stop)
    return result_of(progress, date, loop, interrupted, max_concurrency=max_concurrency)


def result_of(
    progress: Progress,
    date: float,
    loop: Loop,
    interrupted: bool,
    *,
    max_concurrency: int | None = None,
    sessions: Sessions | None = None,
) -> Result:
    """Of a run that has ended or been interrupted. date: of its start, s since 1970."""
    sent = [sample for sample in progress.samples if sample.reply.sent]
    return Result(
        samples=sent,
        planned=progress.total,
        started=progress.started,
        ended=max([sample.reply.closed for sample in sent], default=progress.started),
        date=date,
        loop=loop,
        max_concurrency=max_concurrency,
        interrupted=interrupted,
        sessions=sessions,
    )


async def until_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event | None) -> bool:
    """Runs it to its end, or until stop is set, which cancels it. Returns whether that happened."""
    sender = asyncio.ensure_future(work)
    stopper = asyncio.ensure_future((stop or asyncio.Event()).wait())
    waited_for: tuple[asyncio.Future[Any], ...] = sender, stopper
    try:
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    finally:
        interrupted = not sender.done()
        sender.cancel()
        stopper.cancel()
        # It has to cancel the requests that it has started.
        await asyncio.wait({sender})
    if not sender.cancelled():
        sender.result()
    return interrupted


async def _send_all(
    calls: Sequence[Call],
    api: Api,
    progress: Progress,
    slots: Slots | None,
    closed: bool,
    timeout_s: float | None,
) -> None:
    """Returns when all calls have ended. Exceptions of tasks propagate to the caller."""
    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            message = api.encode(call)
            due = ready = progress.started + call.due
            # At least once, so that earlier sends run; more often if a timer fires early.
            await asyncio.sleep(max(0, due - perf_counter_ns()) / 1e9)
            while (left := due - perf_counter_ns()) > 0:
                await asyncio.sleep(left / 1e9)
            if slots is not None:
                ready = max(due, await slots.take())
            sample = Sample(call, arrival=ready if closed else due, ready=ready)
            sample.reply.asked = call.request.output
            progress.samples.append(sample)
            tasks.create_task(_send(message, api, sample, progress, slots, timeout_s))


async def _send(
    message: bytes, api: Api, sample: Sample, progress: Progress, slots: Slots | None, timeout_s: float | None
) -> None:
    try:
        await send(message, api, sample, progress, timeout_s)
    finally:
        if slots is not None:
            slots.give(sample.reply.closed)


async def send(
    message: bytes, api: Api, sample: Sample, progress: Progress, timeout_s: float | None, gives_up: int | None = None
) -> None:
    """Returns when the exchange is over. gives_up: perf_counter ns at which a client without a token goes."""
    reply = sample.reply
    loop = asyncio.get_running_loop()
    patience = asyncio.timeout(None)

    def lose_patience() -> None:
        if not reply.stamps:
            patience.reschedule(loop.time())

    timer = None
    try:
        async with asyncio.timeout(timeout_s), patience:
            if gives_up is not None:
                timer = loop.call_later(max(0, gives_up - perf_counter_ns()) / 1e9, lose_patience)
            await api.send(message, reply)
    except TimeoutError:
        if patience.expired():
            reply.fail("its client gave up: no token in time", GAVE_UP)
        else:
            reply.fail(f"no complete response within {timeout_s:g} s")
    except asyncio.CancelledError:
        reply.fail("aborted when the run was stopped")
        raise
    finally:
        if timer is not None:
            timer.cancel()
        reply.closed = perf_counter_ns()
        progress.done += 1
        progress.failed += not (reply.completed or reply.truncated)
        progress.tokens += reply.tokens


class Slots:
    """Concurrency limit; each slot stores since when it has been free (perf_counter ns)."""

    def __init__(self, count: int, now: int) -> None:
        self._free = deque([now] * count)
        self._changed = asyncio.Event()

    async def take(self) -> int:
        """Waits for a slot; since when it has been free. One taker at a time."""
        while not self._free:
            self._changed.clear()
            await self._changed.wait()
        return self._free.popleft()

    def give(self, now: int) -> None:
        self._free.append(now)
        self._changed.set()
