"""From the engine's thread to the event loop: pieces of one or several requests, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from fastserve.engine.request import Piece

Take = Callable[[Piece], None]


class Outbox:
    """One wake-up of the event loop an iteration of the engine, however many requests it gave tokens to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.posted: deque[tuple[Take, Piece]] = deque()
        self.awaited = False  # a flush is scheduled; cleared before it takes, so that nothing posted meanwhile is lost

    def post(self, take: Take, piece: Piece) -> None:
        """On the engine's thread: take(piece) will be called on the event loop. RuntimeError once that is closed."""
        self.posted.append((take, piece))
        if not self.awaited:
            self.awaited = True
            self.loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        self.awaited = False
        while self.posted:
            take, piece = self.posted.popleft()
            take(piece)


class Feed:
    """What a handler waits for. Lives on the event loop; `put` and `leave` wake the one who waits in `take`."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, Piece]] = []
        self.gone = False  # the client has left
        self._waiter: asyncio.Future[None] | None = None

    def put(self, choice: int, piece: Piece) -> None:
        self.pieces.append((choice, piece))
        self._wake()

    def leave(self) -> None:
        self.gone = True
        self._wake()

    async def take(self, seconds: float | None = None) -> list[tuple[int, Piece]]:
        """(choice, piece) of all that came; nothing when so many seconds were silent, or the client has left."""
        if not self.pieces and not self.gone:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            alarm = None if seconds is None else loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if alarm is not None:
                    alarm.cancel()
        taken, self.pieces = self.pieces, []
        return taken

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
