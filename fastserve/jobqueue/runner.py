"""Runner: what a worker does with a job that it was given: one lease, one run, one end. On an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fastserve.jobqueue import messages, redis_url, scripts
from fastserve.jobqueue.attempt import Attempt, Ended
from fastserve.jobqueue.jobs import KEEP_JOBS
from fastserve.jobqueue.messages import PREFIX
from fastserve.jobqueue.record import answered, figures, packed

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("fastserve.queue")

DELIVERIES = 10
"""Times that a job is begun; its workers or their machines died under it all but the last time."""

LOOKS_S = 1.0
"""Seconds between two looks at whether a job was cancelled."""

STORE_S = 24 * 3600.0
"""Seconds for which an answer waits for a Redis that is gone; then the job is run again, by whoever gets it."""

MOST_LOGGED = 200
"""Characters of a job's error in the log."""

Result = TypeVar("Result")


DRAIN_S = 30.0
"""Seconds that jobs may take to end once the worker was told to stop; then others run them."""


class GivenBackError(RuntimeError):
    """The job has not ended, or its end could not be stored: its message goes back into the queue."""


class Runner:
    """One for a process. visibility_s: as messages.VISIBILITY_S; a lease is half as long. connections: to Redis."""

    def __init__(
        self, url: str, attempt: Attempt, visibility_s: float = messages.VISIBILITY_S, connections: int = 64,
        drain_s: float = DRAIN_S,
    ) -> None:  # fmt: skip
        self.redis: Redis = redis_url.connected(url, connections=connections)
        self.attempt = attempt
        self.drained = asyncio.Event()  # the time of jobs that run is over
        self.drain_s = drain_s
        self.lease_ms = max(1, round(visibility_s * 500))
        self.looks_s = min(LOOKS_S, visibility_s / 6)

    def stop(self) -> None:
        """Jobs that wait for their server are given back, those that run when drain_s is over."""
        if not self.attempt.stopping.is_set():
            self.attempt.stop()
            asyncio.get_running_loop().call_later(self.drain_s, self.drained.set)

    async def run(self, id: str, tag: str) -> str:
        """The state in which the job is after. tag: of the message that named it. Raises GivenBackError.

        Whoever else was given the same job waits here until it has ended, or its runner has died.
        """
        token = secrets.token_hex(8)
        while True:
            begun = await self._surely(lambda: self._script(scripts.BEGIN, id, token, self.lease_ms))
            what = begun[0].decode()
            if what in ("gone", "ended"):
                return str(what)
            if what == "run":
                break
            if self.attempt.stopping.is_set():
                raise GivenBackError(id)
            await self._beat(id, "", tag)
            await asyncio.sleep(self.looks_s)
        request, client, created, deliveries, now, drawn = begun[1:]
        started = time.monotonic()
        if deliveries > DELIVERIES:
            ended = Ended("failed", None, f"{DELIVERIES} workers died while they ran this job")
        else:
            found = await self._watched(id, token, tag, request, client.decode("utf-8", "replace"), drawn != b"1")
            if found is None:
                log.info("job %s: cancelled", id)
                return "cancelled"
            ended = found
        answer = ended.answer
        if answer is not None:
            answer = answered(id, answer, float(created), float(now) + time.monotonic() - started)
        values = (
            id, ended.state, ended.error, "" if answer is None else packed(answer),
            packed({} if answer is None else figures(answer)), KEEP_JOBS, tag, messages.UNACKNOWLEDGED,
            messages.UNACKNOWLEDGED_INDEX,
        )  # fmt: skip
        watch = asyncio.create_task(self._beats(id, token, tag))
        try:
            await self._surely(lambda: self._script(scripts.END, *values))
        finally:
            await _stopped(watch)
        if ended.state == "finished":
            log.info("job %s: finished in %.3g s", id, time.monotonic() - started)
        else:
            log.warning("job %s: %s: %s", id, ended.state, ended.error[:MOST_LOGGED])
        return ended.state

    async def _watched(self, id: str, token: str, tag: str, request: bytes, client: str, kept: bool) -> Ended | None:
        """None when it was cancelled meanwhile. kept: a cache on the way may keep the answer. Raises GivenBackError."""
        try:
            fields = json.loads(request)
            body = packed({**fields, "user": client, "stream": False}).encode()
        except (ValueError, TypeError, RecursionError) as error:
            return Ended("failed", None, f"its stored request is damaged: {error}")
        work = asyncio.create_task(self.attempt.run(id, body, lambda: self._count_attempt(id), kept))
        watch = asyncio.create_task(self._beats(id, token, tag))
        drained = asyncio.create_task(self.drained.wait())
        try:
            await asyncio.wait((work, watch, drained), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and watch.done():
                return None
            ended = work.result() if work.done() else None
        finally:
            for task in (work, watch, drained):
                await _stopped(task)
        if ended is None:
            log.info("job %s: given back, since this worker stops", id)
            await self._surely(lambda: self._script(scripts.RELEASE, id, token))
            raise GivenBackError(id)
        return ended

    async def _count_attempt(self, id: str) -> int:
        found: int = await self._surely(lambda: self._script(scripts.ATTEMPT, id))
        return found

    async def _beats(self, id: str, token: str, tag: str) -> None:
        """Signs of life until the job has ended otherwise."""
        while True:
            await asyncio.sleep(self.looks_s)
            if await self._beat(id, token, tag) not in ("queued", "running", ""):
                return

    async def _beat(self, id: str, token: str, tag: str) -> str:
        """The job's state; "" where Redis does not answer."""
        from redis.exceptions import RedisError

        index = messages.UNACKNOWLEDGED_INDEX if tag else ""
        with contextlib.suppress(RedisError, OSError):
            state = await self._script(scripts.BEAT, id, token, self.lease_ms, index, tag, time.time())
            return str(state.decode())
        return ""

    async def _script(self, script: str, *values: Any) -> Any:
        return await self.redis.eval(script, 1, PREFIX, *values)

    async def _surely(self, command: Callable[[], Awaitable[Result]]) -> Result:
        """As soon as Redis answers. Raises GivenBackError where it has not for a day, or until this worker stops."""
        from redis.exceptions import RedisError

        began, pause, told = time.monotonic(), 0.1, False
        while True:
            try:
                return await command()
            except (RedisError, OSError) as error:
                if time.monotonic() - began > STORE_S or self.drained.is_set():
                    raise GivenBackError(str(error)) from error
                if not told:
                    told = True
                    log.error("the queue does not answer: %s; tried again until it does", error or type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def close(self) -> None:
        await self.attempt.close()
        await self.redis.aclose()


async def _stopped(task: asyncio.Task[Any]) -> None:
    """Cancelled, and again: redis-py may lose a cancellation that comes at the moment of its answer (wait_for)."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.5)
