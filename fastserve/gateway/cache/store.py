"""Store: where answers are kept, by a key of 32 bytes, for a time and within a size."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Kept(NamedTuple):
    """age: s since it was put."""

    value: bytes
    age: float


class Held(NamedTuple):
    """What a store holds now."""

    entries: int
    bytes: int


class Store(Protocol):
    """Any call may raise an exception of its own kind, or take long: see guarded."""

    name: str

    async def get(self, key: bytes) -> Kept | None: ...
    async def put(self, key: bytes, value: bytes) -> None: ...
    async def clear(self) -> None: ...
    async def held(self) -> Held: ...
    async def close(self) -> None: ...
