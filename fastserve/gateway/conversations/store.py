"""Where conversations are kept: a Store, and the one in memory. Each has a time to live, renewed with each turn."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from cachetools import TTLCache

OVERHEAD = 600
"""Bytes that a conversation takes in memory beside its own, about: what 10^5 of them took, divided."""


class Key(NamedTuple):
    """client: whose it is; nobody else's key is ever the same. id: as the client calls it."""

    client: str
    id: str

    @property
    def digest(self) -> bytes:
        name = f"{len(self.client)}:{self.client}{self.id}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(name, digest_size=16).digest()


class Head(NamedTuple):
    """line: the first of a History's JSON. size: bytes of all of it."""

    line: bytes
    size: int


class Store(Protocol):
    """data: a History as JSON. One key's turns come one after the other, so a get and a put of it never cross.

    Raises ConnectionError where it cannot be reached.
    """

    async def get(self, key: Key) -> bytes | None: ...
    async def put(self, key: Key, data: bytes) -> None: ...
    async def delete(self, key: Key) -> bool:
        """Whether it was there."""
        ...

    async def of(self, client: str, most: int) -> list[Head]:
        """The client's conversations, some of the newest first."""
        ...

    async def hold(self, key: Key, wait: float) -> Callable[[], None]:
        """The conversation is one turn's own until what this returns is called, among all gateways that share the
        store. wait: s at most. Raises TimeoutError.
        """
        ...

    async def close(self) -> None: ...


class Entry(NamedTuple):
    client: str
    data: bytes


class MemoryStore:
    """most: bytes in all; the longest unused goes first. ttl: s."""

    def __init__(self, ttl: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.kept: TTLCache[bytes, Entry] = TTLCache(most, ttl, timer=clock, getsizeof=_size)
        self.clients: dict[str, dict[bytes, None]] = {}  # digests, some of which may be gone
        self.listed = 0

    async def get(self, key: Key) -> bytes | None:
        found = self.kept.get(key.digest)
        return None if found is None else found.data

    async def put(self, key: Key, data: bytes) -> None:
        digest = key.digest
        try:
            self.kept[digest] = Entry(key.client, data)
        except ValueError:  # it alone is more than there is room for
            self.kept.pop(digest, None)
            return
        own = self.clients.setdefault(key.client, {})
        self.listed += digest not in own
        own.pop(digest, None)
        own[digest] = None  # the newest last
        if self.listed > 2 * len(self.kept) + 64:
            self._forget()

    async def delete(self, key: Key) -> bool:
        return self.kept.pop(key.digest, None) is not None

    async def of(self, client: str, most: int) -> list[Head]:
        found: list[Head] = []
        own = self.clients.get(client, {})
        for digest in reversed(list(own)[-2 * most :]):
            entry = self.kept.get(digest)
            if entry is not None:
                found.append(Head(first_line(entry.data), len(entry.data)))
        return found[:most]

    async def hold(self, key: Key, wait: float) -> Callable[[], None]:
        return lambda: None  # nobody shares it

    def counted(self) -> dict[str, Any]:
        self.kept.expire()
        return {"conversations": len(self.kept), "bytes": int(self.kept.currsize)}

    async def close(self) -> None:
        pass

    def _forget(self) -> None:
        """Drops digests of what is gone: in all less work than the puts that brought them."""
        self.kept.expire()
        for client, own in list(self.clients.items()):
            left = {digest: None for digest in own if digest in self.kept}
            if left:
                self.clients[client] = left
            else:
                del self.clients[client]
        self.listed = sum(map(len, self.clients.values()))


def first_line(data: bytes) -> bytes:
    end = data.find(b"\n")  # partition() would copy all the rest
    return data if end < 0 else data[:end]


def _size(entry: Entry) -> int:
    return len(entry.data) + OVERHEAD
