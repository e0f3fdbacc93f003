"""run_sessions(): waits for the answer, thinks, and sends what follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from time import perf_counter_ns, time
from typing import Protocol

from fastserve.bench.call import Call, Reply
from fastserve.bench.loop import HEAD_START, Api, Progress, result_of, send, until_stopped
from fastserve.bench.result import Result, Sample
from fastserve.workload.session import Sessions


class Calls(Protocol):
    """Requests that are made when they are due."""

    def __len__(self) -> int: ...
    def make(self, row: int, at: int) -> Call: ...  # due at `at`, ns after the start
    def answered(self, row: int, reply: Reply) -> object: ...  # before what follows it is made


class SessionApi(Api, Protocol):
    async def end_program(self, name: str) -> None:
        """Nothing of it follows. A server that cannot be told is not, and no failure is raised."""


async def run_sessions(
    calls: Calls,
    api: SessionApi,
    sessions: Sessions,
    *,
    timeout_s: float | None = None,
    stop: asyncio.Event | None = None,
    watch: Callable[[Progress], object] | None = None,
) -> Result:
    """Sends each request when those that it waits for have been answered and the think time is over; returns when all
    have ended or been abandoned. A request arrives when it is due, and is sent then.

    An answer that is not complete abandons what waits for it (Sessions.abandoned), whoever ended it: the server, its
    client's patience (a setting of the sessions), timeout_s. timeout_s, stop, watch: as of run(). The result holds the
    sessions, and with them the measures of programs.
    """
    driver = _Driver(calls, api, sessions, timeout_s)
    date = time() + HEAD_START / 1e9
    if watch is not None:
        watch(driver.progress)
    interrupted = await until_stopped(driver.run(), stop)
    return result_of(driver.progress, date, "sessions", interrupted, sessions=sessions)


class _Driver:
    def __init__(self, calls: Calls, api: SessionApi, sessions: Sessions, timeout_s: float | None) -> None:
        self.calls = calls
        self.api = api
        self.sessions = sessions
        self.timeout_s = timeout_s
        self.progress = Progress(calls)
        self.start = self.progress.started = perf_counter_ns() + HEAD_START
        self.due: list[tuple[int, int]] = []  # (perf_counter ns, row): a heap
        self.made: dict[int, tuple[Call, bytes]] = {}  # of the rows that were the next to come
        self.changed = asyncio.Event()

    async def run(self) -> None:
        self._come(self.sessions.begin())
        async with asyncio.TaskGroup() as tasks:
            while self.due or self.progress.running:
                self.changed.clear()
                wait = None
                if self.due:
                    at, row = self.due[0]
                    if row not in self.made:  # before it is due, so that this does not make it late
                        self.made[row] = self._made(row, at)
                    wait = (at - perf_counter_ns()) / 1e9
                    if wait <= 0:
                        heappop(self.due)
                        tasks.create_task(self._one(row, at, tasks))
                        await asyncio.sleep(0)  # it is sent before the next one is made
                        continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self.changed.wait()

    def _made(self, row: int, at: int) -> tuple[Call, bytes]:
        call = self.calls.make(row, at - self.start)
        return call, self.api.encode(call)

    def _come(self, arrivals: list[tuple[int, int]]) -> None:
        for row, at in arrivals:
            heappush(self.due, (self.start + at, row))
        self.changed.set()

    async def _one(self, row: int, at: int, tasks: asyncio.TaskGroup) -> None:
        sessions = self.sessions
        call, message = self.made.pop(row)
        sample = Sample(call, arrival=at, ready=at)
        sample.reply.asked = call.request.output
        self.progress.samples.append(sample)
        patience = sessions.patience
        gives_up = None if patience is None else at + patience
        await send(message, self.api, sample, self.progress, self.timeout_s, gives_up)
        reply = sample.reply
        self.calls.answered(row, reply)
        self._come(sessions.ended(row, reply.closed - self.start, reply.completed))
        program = sessions.program_of(row).name
        if program and sessions.is_last(row):
            tasks.create_task(self.api.end_program(program))
