"""MemoryStore: of this process; the least recently used goes first."""

from __future__ import annotations

import time

from cachetools import TTLCache

from fastserve.gateway.cache.store import Held, Kept

OVERHEAD = 512
"""Bytes that an entry takes beside its value: measured, with its places in the cache's tables."""


class MemoryStore:
    """size: bytes. ttl: s, by time.monotonic()."""

    name = "memory"

    def __init__(self, size: int, ttl: float) -> None:
        self.kept: TTLCache[bytes, tuple[bytes, float]] = TTLCache(
            size, ttl, timer=time.monotonic, getsizeof=lambda each: len(each[0]) + OVERHEAD
        )

    async def get(self, key: bytes) -> Kept | None:
        found = self.kept.get(key)
        return None if found is None else Kept(found[0], time.monotonic() - found[1])

    async def put(self, key: bytes, value: bytes) -> None:
        if len(value) + OVERHEAD <= self.kept.maxsize:
            self.kept[key] = (value, time.monotonic())

    async def clear(self) -> None:
        self.kept.clear()

    async def held(self) -> Held:
        return Held(len(self.kept), int(self.kept.currsize))

    async def close(self) -> None:
        self.kept.clear()
