"""Turns: one turn of a conversation at a time, in the order in which they came; few may wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastserve.gateway.conversations.store import Key, Store
from fastserve.server.api.errors import ApiError

WAITING = 8
"""Turns of one conversation that may wait for the one before."""


@dataclass(slots=True)
class Place:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    there: int = 0


class Turn:
    """end() it, however it went; it ends with its last reference too."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def end(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()

    __del__ = end


class Turns:
    """wait: s for which a turn waits at most."""

    def __init__(self, store: Store, wait: float) -> None:
        self.store = store
        self.wait = wait
        self.places: dict[Key, Place] = {}

    async def begin(self, key: Key) -> Turn:
        """Raises ApiError 409 where too many wait, or the one before takes too long, and what the store raises."""
        place = self.places.setdefault(key, Place())
        if place.there > WAITING:
            raise ApiError(
                409, f"conversation {shown(key.id)} has {WAITING} turns waiting: send them one after another"
            )
        until = time.monotonic() + self.wait
        place.there += 1
        turn = Turn(lambda: self._leave(key, place))
        try:
            async with asyncio.timeout(self.wait):
                await place.lock.acquire()
            turn = Turn(self._ended(turn, place.lock.release))
            return Turn(self._ended(turn, await self.store.hold(key, max(0.0, until - time.monotonic()))))
        except TimeoutError:
            turn.end()
            why = f"the turn before has not ended within {self.wait:.0f} s"
            raise ApiError(409, f"conversation {shown(key.id)}: {why}; wait for its answer") from None
        except BaseException:
            turn.end()
            raise

    def _leave(self, key: Key, place: Place) -> None:
        place.there -= 1
        if not place.there:
            del self.places[key]

    @staticmethod
    def _ended(before: Turn, release: Callable[[], None]) -> Callable[[], None]:
        def both() -> None:
            release()
            before.end()

        return both


def shown(id: str) -> str:
    """An id in a message."""
    return repr(id if len(id) <= 40 else id[:37] + "...")
