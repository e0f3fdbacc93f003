"""RedisStore: conversations that several gateways share and that outlive them.

Each is a key of its own with its time to live. Beside them stand an index a client (id -> last use) and, so that all
together stay within their bound, ages (digest -> last use) and sizes (digest -> bytes) of all; one script keeps these
in step with the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from typing import Any

from fastserve.gateway.conversations.store import Head, Key, first_line
from fastserve.jobqueue import redis_url

PREFIX = "{fastserve}:conversations"
AGES, SIZES, BYTES = f"{PREFIX}:ages", f"{PREFIX}:sizes", f"{PREFIX}:bytes"
LEASE_S = 30.0
"""Seconds for which a turn holds its conversation before it renews that: the wait after a gateway was killed."""

HEAD = 8 << 10
"""Bytes within which the first line of a history ends: an id has at most 256 characters."""

FORGET = """
local function forget(digest)
  local size = redis.call('HGET', KEYS[2], digest)
  if size then redis.call('DECRBY', KEYS[3], size) end
  redis.call('HDEL', KEYS[2], digest)
  redis.call('ZREM', KEYS[1], digest)
end
"""
PUT = (
    FORGET
    + """
local own, digest, data = KEYS[5], ARGV[1], ARGV[2]
local now, ttl, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local size = #data
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ttl, 'LIMIT', 0, 1000)) do forget(old) end
forget(digest)
if size > most then redis.call('DEL', KEYS[4]) return 0 end
while tonumber(redis.call('GET', KEYS[3]) or '0') + size > most do
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if not oldest then redis.call('SET', KEYS[3], 0) break end
  redis.call('DEL', ARGV[7] .. oldest)
  forget(oldest)
end
redis.call('SET', KEYS[4], data, 'PX', ttl)
redis.call('ZADD', KEYS[1], now, digest)
redis.call('HSET', KEYS[2], digest, size)
redis.call('INCRBY', KEYS[3], size)
redis.call('ZREMRANGEBYSCORE', own, '-inf', now - ttl)
redis.call('ZADD', own, now, ARGV[6])
redis.call('PEXPIRE', own, ttl)
return 1
"""
)
DELETE = (
    FORGET
    + """
forget(ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[2])
return redis.call('DEL', KEYS[4])
"""
)


class RedisStore:
    """url: redis://... ttl: s. most: bytes in all. Nothing is connected before the first call."""

    def __init__(self, url: str, ttl: float, most: int, clock: Callable[[], float] = time.time) -> None:
        self.redis = redis_url.connected(url)
        from redis import RedisError

        self.errors = (RedisError, OSError)
        self.where = redis_url.shown(url)
        self.ttl_ms = max(1, round(ttl * 1e3))
        self.most = most
        self.clock = clock
        self.releases: set[asyncio.Task[None]] = set()

    async def get(self, key: Key) -> bytes | None:
        found: bytes | None = await self._asked(self.redis.get(_name(key)))
        return found

    async def put(self, key: Key, data: bytes) -> None:
        now = int(self.clock() * 1e3)
        words = (key.digest.hex(), data, now, self.ttl_ms, self.most, key.id.encode("utf-8", "surrogatepass"), _name())
        await self._asked(self.redis.eval(PUT, 5, *_keys(key), *words))

    async def delete(self, key: Key) -> bool:
        words = (key.digest.hex(), key.id.encode("utf-8", "surrogatepass"))
        return bool(await self._asked(self.redis.eval(DELETE, 5, *_keys(key), *words)))

    async def of(self, client: str, most: int) -> list[Head]:
        ids: list[bytes] = await self._asked(self.redis.zrevrange(_index(client), 0, most - 1))
        async with self.redis.pipeline(transaction=False) as asked:
            for id in ids:
                name = _name(Key(client, id.decode("utf-8", "surrogatepass")))
                asked.getrange(name, 0, HEAD - 1)
                asked.strlen(name)
            found = await self._asked(asked.execute())
        pairs = zip(found[::2], found[1::2], strict=True)
        return [Head(first_line(data), size) for data, size in pairs if size]

    async def hold(self, key: Key, wait: float) -> Callable[[], None]:
        lock = self.redis.lock(f"{PREFIX}:lock:{key.digest.hex()}", timeout=LEASE_S, sleep=0.05, thread_local=False)
        if not await self._asked(lock.acquire(blocking=True, blocking_timeout=wait)):
            raise TimeoutError
        renewal = asyncio.create_task(self._renew(lock))

        def release() -> None:
            renewal.cancel()
            task = asyncio.create_task(self._release(lock))
            self.releases.add(task)
            task.add_done_callback(self.releases.discard)

        return release

    async def close(self) -> None:
        if self.releases:
            await asyncio.wait(self.releases)
        await self.redis.aclose()

    async def _release(self, lock: Any) -> None:
        with contextlib.suppress(*self.errors):  # it ends by itself
            await lock.release()

    async def _renew(self, lock: Any) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with contextlib.suppress(*self.errors):
                await lock.reacquire()

    async def _asked(self, answer: Any) -> Any:
        """What Redis answers; its client's types know neither that it is asynchronous nor that it decodes nothing."""
        try:
            return await answer
        except self.errors as error:
            raise ConnectionError(f"{self.where} does not answer: {error}") from error


def _name(key: Key | None = None) -> str:
    return f"{PREFIX}:of:" + ("" if key is None else key.digest.hex())


def _index(client: str) -> str:
    return f"{PREFIX}:client:{hashlib.blake2b(client.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def _keys(key: Key) -> tuple[str, ...]:
    return AGES, SIZES, BYTES, _name(key), _index(key.client)
