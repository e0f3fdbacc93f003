"""JobQueue: what a server or gateway does with the queue: submit, find, list and cancel jobs. One event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve.jobqueue import messages, redis_url, scripts
from fastserve.jobqueue.messages import PREFIX
from fastserve.jobqueue.record import FIELDS, QueuedJob, packed, read
from fastserve.jobqueue.settings import QueueSettings

if TYPE_CHECKING:
    from celery import Celery
    from redis.asyncio import Redis

log = logging.getLogger("fastserve.queue")

KEEP_JOBS = 10_000
"""Ended jobs that are kept at most."""

PUBLISH_S = 10.0
"""Seconds in which a message must have been put into the queue."""

MOST_REFUSED = 1000
"""Refused jobs that may have to be taken back."""

AT_ONCE = 500
"""Jobs that one round trip asks about."""


class QueueDownError(RuntimeError):
    """Redis does not answer, or takes nothing more. Nothing was accepted."""


class QueueFullError(RuntimeError):
    """The queue holds as much as it may."""


class Listed(NamedTuple):
    """total: of all in that state. next: what the next page's `after` is; None on the last."""

    jobs: list[QueuedJob]
    total: int
    next: str | None


class JobQueue:
    """Raises MissingPackageError. Every call ends within seconds, whatever Redis does: see QueueDownError."""

    def __init__(self, settings: QueueSettings) -> None:
        assert settings.queue is not None
        url = settings.queue.get_secret_value()
        self.shown = redis_url.shown(url)
        self.most_jobs = settings.queue_jobs
        self.most_bytes = round(settings.queue_mib * (1 << 20))
        self.keep_s = max(1, round(settings.queue_hours * 3600))
        self.celery: Celery = messages.celery(url)
        self.redis: Redis = redis_url.connected(url)
        self._told = False
        self._refused: set[asyncio.Task[None]] = set()

    async def submit(self, request: Mapping[str, Any], *, client: str, model: str) -> QueuedJob:
        """In Redis when this returns. request: as POST /generate takes it; without a seed it gets one, so that a job
        that is run again gives the same text. Raises QueueDownError or QueueFullError, and then it is not accepted.
        """
        drawn = request.get("seed") is None
        if drawn:
            request = {**request, "seed": secrets.randbits(63)}
        id = secrets.token_hex(12)
        metadata = request.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        place = messages.priority(request.get("priority"))
        try:
            async with self._answering():
                full, *created = await self._run(
                    scripts.SUBMIT, id, client, model, packed(request), packed(metadata), self.most_jobs,
                    self.most_bytes, self.keep_s, place, int(drawn),
                )  # fmt: skip
        except QueueDownError:
            self._withdraw(id)
            raise
        if full:
            what = {b"jobs": f"{self.most_jobs} jobs", b"bytes": f"{self.most_bytes >> 20} MiB of requests"}[full]
            raise QueueFullError(f"the queue holds {what}, which is its limit: try again later")
        try:
            async with asyncio.timeout(PUBLISH_S):
                await asyncio.to_thread(self._publish, id, place)
        except Exception as error:
            self._withdraw(id)
            raise self._down(error) from error
        return QueuedJob(id, client, model, "queued", float(created[0]), metadata=metadata)

    def _withdraw(self, id: str) -> None:
        """A job that was refused although Redis may have it, or get it yet: taken back as soon as Redis answers."""
        if len(self._refused) < MOST_REFUSED:
            task = asyncio.create_task(self._taken_back(id))
            self._refused.add(task)
            task.add_done_callback(self._refused.discard)

    async def _taken_back(self, id: str) -> None:
        while True:
            with contextlib.suppress(QueueDownError):
                async with self._answering():
                    await self._run(scripts.WITHDRAW, id)
                return
            await asyncio.sleep(2.0)

    def _publish(self, id: str, place: int) -> None:
        self.celery.send_task(messages.TASK, (id,), task_id=id, priority=place, retry=False)

    async def find(self, id: str, client: str | None) -> QueuedJob | None:
        """client: who asks, and sees its own only; None: all. Raises QueueDownError."""
        async with self._answering():
            pipe: Any = self.redis.pipeline(transaction=False)
            pipe.hmget(f"{PREFIX}job:{id}", list(FIELDS)).get(f"{PREFIX}answer:{id}").zrank(f"{PREFIX}waiting", id)
            values, answer, place = await pipe.execute()
        if values[0] is None:
            return None
        found = read(id, values, answer, place)
        return found if client is None or found.client == client else None

    async def ids(self, client: str | None) -> list[tuple[str, float]]:
        """(id, when it came) of all of its jobs, newest first. client: as of find(). Raises QueueDownError."""
        key = f"{PREFIX}jobs" if client is None else f"{PREFIX}jobs:{client}"
        async with self._answering():
            found: Any = await self.redis.zrange(key, 0, -1, desc=True, withscores=True)
        return [(id.decode(), when) for id, when in found]

    async def states(self, ids: Sequence[str]) -> dict[str, str]:
        """State by id; those that are kept no more are missing. Raises QueueDownError."""
        found: dict[str, str] = {}
        async with self._answering():
            for at in range(0, len(ids), AT_ONCE):
                part = ids[at : at + AT_ONCE]
                pipe = self.redis.pipeline(transaction=False)
                for id in part:
                    pipe.hget(f"{PREFIX}job:{id}", "state")
                states = await pipe.execute()
                found |= {id: state.decode() for id, state in zip(part, states, strict=True) if state}
        return found

    async def jobs(self, ids: Sequence[str], answers: bool = False) -> list[QueuedJob]:
        """Those of these ids that are kept, in their order. answers: with their answers. Raises QueueDownError."""
        found = []
        async with self._answering():
            for at in range(0, len(ids), AT_ONCE):
                part = ids[at : at + AT_ONCE]
                pipe: Any = self.redis.pipeline(transaction=False)
                for id in part:
                    pipe.hmget(f"{PREFIX}job:{id}", list(FIELDS)).zrank(f"{PREFIX}waiting", id)
                    if answers:
                        pipe.get(f"{PREFIX}answer:{id}")
                    else:
                        pipe.echo("")
                got = await pipe.execute()
                for number, id in enumerate(part):
                    values, place, answer = got[3 * number : 3 * number + 3]
                    if values[0] is not None:
                        found.append(read(id, values, answer or None, place))
        return found

    async def listed(
        self, client: str | None, state: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listed | None:
        """Newest first, without answers; None where `after` is not one of them. Raises QueueDownError."""
        ids = [id for id, _ in await self.ids(client)]
        states = await self.states(ids)
        ids = [id for id in ids if id in states]
        page = ids
        if after is not None:
            if after not in states:
                return None
            page = ids[ids.index(after) + 1 :]
        page = [id for id in page if state in (None, states[id])]
        total = sum(state in (None, found) for found in states.values())
        shown = await self.jobs(page[:limit])
        return Listed(shown, total, page[limit - 1] if len(page) > limit else None)

    async def cancel(self, id: str, client: str | None) -> QueuedJob | None:
        """Its state after; one that has ended stays as it is. None: there is none. Raises QueueDownError."""
        if await self.find(id, client) is None:
            return None
        async with self._answering():
            await self._run(scripts.END, id, "cancelled", "", "", "{}", KEEP_JOBS, "", "", "")
        return await self.find(id, client)

    async def pending(self) -> int:
        """Jobs that have not ended. Raises QueueDownError."""
        async with self._answering():
            return int(await self.redis.zcard(f"{PREFIX}pending"))

    async def check(self) -> None:
        """Logs a warning where Redis does not answer."""
        with contextlib.suppress(QueueDownError):
            await self.pending()

    async def close(self) -> None:
        for task in list(self._refused):
            task.cancel()
        await self.redis.aclose()
        await asyncio.to_thread(self.celery.close)

    async def _run(self, script: str, *values: Any) -> Any:
        return await self.redis.eval(script, 1, PREFIX, *values)

    @contextlib.asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            raise self._down(error) from error
        if self._told:
            self._told = False
            log.info("the queue at %s answers again", self.shown)

    def _down(self, error: BaseException) -> QueueDownError:
        what = f"the queue at {self.shown} does not answer: {str(error) or type(error).__name__}"
        if not self._told:
            self._told = True
            log.error("%s; jobs are refused until it does", what)
        return QueueDownError(what)
