"""Guarded: a store behind which nothing waits for long and nothing fails: what goes wrong is a miss.

It is told once in the log, until the store works again. After a failure the store is left alone for a while, so that
one that hangs costs one request its time, and not each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastserve.gateway.cache import entry
from fastserve.gateway.cache.entry import Entry
from fastserve.gateway.cache.store import Held, Store

log = logging.getLogger("fastserve.gateway")

Result = TypeVar("Result")

ANSWER_S = 0.5
"""Seconds that a request waits for the store."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
MOST_WRITES = 256
MOST_WRITING = 64 << 20
"""Writes under way, and their bytes, beyond which an answer is not kept."""

CLEAR_S = 30.0


class Guarded:
    """errors: calls that failed or took too long. dropped: answers not kept because writes were behind."""

    def __init__(self, store: Store, answer_s: float = ANSWER_S) -> None:
        self.store = store
        self.answer_s = answer_s
        self.errors = 0
        self.dropped = 0
        self._down_until = 0.0
        self._pause = 0.0
        self._writes: set[asyncio.Task[None]] = set()
        self._writing = 0

    async def get(self, key: bytes) -> tuple[Entry, float] | None:
        """The entry and its age, s."""
        found = await self._tried(self.store.get(key), self.answer_s)
        if found is None:
            return None
        try:
            whole = entry.unpacked(found.value)
        except Exception as error:  # what is in a shared store may have been written by anybody
            self._failed(error)
            return None
        if whole is None:
            self._failed(ValueError("a stored answer is damaged"))
            return None
        return whole, found.age

    def put(self, key: bytes, kept: Entry) -> None:
        """In the background."""
        value = kept.packed()
        if len(self._writes) >= MOST_WRITES or self._writing + len(value) > MOST_WRITING:
            self.dropped += 1
            return
        self._writing += len(value)
        task = asyncio.create_task(self._put(key, value))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _put(self, key: bytes, value: bytes) -> None:
        try:
            await self._tried(self.store.put(key, value), 10 * self.answer_s)
        finally:
            self._writing -= len(value)

    async def written(self) -> None:
        """All that was put before."""
        await asyncio.gather(*self._writes)

    async def held(self) -> Held | None:
        return await self._tried(self.store.held(), self.answer_s)

    async def clear(self) -> bool:
        """Whether it is empty now."""
        before = self.errors
        await self._tried(self.store.clear(), CLEAR_S, always=True)
        return self.errors == before

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLEAR_S):
                await self.written()
                await self.store.close()
        except Exception as error:
            log.warning("the cache could not be closed: %s", error or type(error).__name__)

    async def _tried(self, call: Awaitable[Result], seconds: float, always: bool = False) -> Result | None:
        if not always and time.monotonic() < self._down_until:
            _forget(call)
            return None
        try:
            async with asyncio.timeout(seconds):
                found = await call
        except Exception as error:
            self._failed(error)
            return None
        if self._pause:
            self._pause = 0.0
            log.info("the cache works again")
        return found

    def _failed(self, error: BaseException) -> None:
        self.errors += 1
        if not self._pause:
            what = str(error) or f"it did not answer within {self.answer_s:g} s"
            log.error("the cache (%s) fails, and requests go on without it: %s", self.store.name, what)
        self._pause = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause))
        self._down_until = time.monotonic() + self._pause


def _forget(call: Any) -> None:
    """A coroutine that is not awaited."""
    call.close()
