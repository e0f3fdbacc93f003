"""RedisStore: shared by gateways on any machine; the oldest goes first.

Redis lets go of an answer when its time is over; an index of their sizes bounds all of them together. A Redis of its
own may be given a maxmemory above --cache-size; with a policy of eviction it only forgets sooner.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastserve.gateway.cache.store import Held, Kept
from fastserve.jobqueue import redis_url

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "fastserve:answers:"
OVERHEAD = 256
"""Bytes that an answer takes beside its value, with its places in the index."""

GET = """
local value = redis.call('GET', KEYS[1] .. 'a:' .. ARGV[1])
if not value then return false end
return {value, redis.call('PTTL', KEYS[1] .. 'a:' .. ARGV[1])}
"""

PUT = """
local P, key, size, most = KEYS[1], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[5])
local now = redis.call('TIME')[1]
local function drop(one)
  local had = redis.call('HGET', P .. 'sizes', one)
  if had then redis.call('DECRBY', P .. 'bytes', had) end
  redis.call('HDEL', P .. 'sizes', one)
  redis.call('ZREM', P .. 'index', one)
  redis.call('DEL', P .. 'a:' .. one)
end
drop(key)
for _, one in ipairs(redis.call('ZRANGEBYSCORE', P .. 'index', '-inf', now - math.ceil(ARGV[4] / 1000),
                                'LIMIT', 0, 100)) do drop(one) end
while tonumber(redis.call('GET', P .. 'bytes') or '0') + size > most do
  local oldest = redis.call('ZRANGE', P .. 'index', 0, 0)[1]
  if not oldest then break end
  drop(oldest)
end
redis.call('SET', P .. 'a:' .. key, ARGV[2], 'PX', ARGV[4])
redis.call('HSET', P .. 'sizes', key, size)
redis.call('ZADD', P .. 'index', now, key)
redis.call('INCRBY', P .. 'bytes', size)
return 1
"""
"""key, value, size, ms to keep, most bytes"""


class RedisStore:
    """size: bytes. ttl: s. answer_s: within which Redis must have answered. Raises MissingPackageError."""

    name = "redis"

    def __init__(self, url: str, size: int, ttl: float, answer_s: float) -> None:
        self.redis: Redis = redis_url.connected(url, answer_s)
        self.shown = redis_url.shown(url)
        self.size = size
        self.ttl_ms = math.ceil(ttl * 1000)

    async def get(self, key: bytes) -> Kept | None:
        found: Any = await self._eval(GET, key)
        return None if found is None else Kept(found[0], max(0.0, (self.ttl_ms - found[1]) / 1000))

    async def put(self, key: bytes, value: bytes) -> None:
        size = len(value) + OVERHEAD
        if size <= self.size:
            await self._eval(PUT, key, value, size, self.ttl_ms, self.size)

    async def clear(self) -> None:
        """Those that are kept when this begins."""
        keys: Any = await self.redis.zrange(f"{PREFIX}index", 0, -1)
        for at in range(0, len(keys), 1000):
            await self.redis.delete(*[PREFIX.encode() + b"a:" + key for key in keys[at : at + 1000]])
        await self.redis.delete(f"{PREFIX}index", f"{PREFIX}sizes", f"{PREFIX}bytes")

    async def held(self) -> Held:
        entries, held = await self.redis.zcard(f"{PREFIX}index"), await self.redis.get(f"{PREFIX}bytes")
        return Held(int(entries), int(held or 0))

    async def close(self) -> None:
        await self.redis.aclose()

    async def _eval(self, script: str, *values: Any) -> Any:
        return await self.redis.eval(script, 1, PREFIX, *values)
