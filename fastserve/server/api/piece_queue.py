"""Passing output pieces from the engine's thread to handlers on the event loop, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from fastserve.engine.request import Piece

Callback = Callable[[Piece], None]


class LoopDispatcher:
    """Runs callbacks on the event loop for the engine's thread, batched: one wake-up for all pieces of an iteration."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.posted: deque[tuple[Callback, Piece]] = deque()
        self.scheduled = False  # a flush is due; cleared before it reads, so that nothing posted meanwhile is lost

    def post(self, callback: Callback, piece: Piece) -> None:
        """From any thread: callback(piece) runs on the event loop. Raises RuntimeError once that is closed."""
        self.posted.append((callback, piece))
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        self.scheduled = False
        while self.posted:
            callback, piece = self.posted.popleft()
            callback(piece)


class PieceQueue:
    """Pieces of one HTTP request, waited for by its handler. Event loop only: `put` and `disconnect` wake `get`."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, Piece]] = []
        self.disconnected = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, choice: int, piece: Piece) -> None:
        self.pieces.append((choice, piece))
        self._wake()

    def disconnect(self) -> None:
        """The client has disconnected."""
        self.disconnected = True
        self._wake()

    async def get(self, timeout_s: float | None = None) -> list[tuple[int, Piece]]:
        """(choice, piece) of all that have arrived; empty after timeout_s, or when the client has disconnected."""
        if not self.pieces and not self.disconnected:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if timeout_s is None else loop.call_later(timeout_s, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        taken, self.pieces = self.pieces, []
        return taken

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
