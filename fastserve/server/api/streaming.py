"""Answers that arrive as they are made: server-sent events, and the client who may leave at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from starlette.responses import Response

from fastserve.engine.request import Piece
from fastserve.server.jobs.jobs import Group

SILENCE = 15.0
"""Seconds after which a comment shows that the stream lives: its request may be preempted."""

WAIT = b": wait\n\n"
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
EVENTS: dict[str, Any] = {
    "text/event-stream": {
        "itemSchema": {
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
        }
    }
}
"""The `content` of a declared answer that is a stream."""

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """chunks: whole events. leave() is called as soon as the client has left, and must end `chunks` soon."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        self.chunks = chunks
        self.leave = leave
        self.status_code = 200
        self.background = None
        self.body = b""
        self.raw_headers = list(HEADERS)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async with departure(receive, self.leave), contextlib.aclosing(self.chunks):  # type: ignore[type-var]
            with contextlib.suppress(OSError):  # the client has left while it was written to
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for chunk in self.chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


class Format(Protocol):
    """How one kind of client reads the stream of a group. Each method returns whole events, or nothing."""

    def opening(self) -> bytes: ...
    def piece(self, choice: int, piece: Piece) -> bytes: ...
    def closing(self) -> bytes: ...


def stream_of(group: Group, form: Format) -> EventStream:
    """What this group says. When the client leaves, its jobs are cancelled within one iteration."""
    return EventStream(_said(group, form), group.feed.leave)


async def _said(group: Group, form: Format) -> AsyncIterator[bytes]:
    feed = group.feed
    try:
        opening = form.opening()
        if opening:
            yield opening
        while feed.pieces or not group.ended:
            taken = await feed.take(SILENCE)
            if feed.gone:
                return
            chunk = b"".join([form.piece(choice, piece) for choice, piece in taken]) if taken else WAIT
            if chunk:
                yield chunk
        yield form.closing()
    finally:
        group.cancel()


@contextlib.asynccontextmanager
async def departure(receive: Receive, left: Callable[[], object]) -> AsyncIterator[None]:
    """While the block runs, left() is called as soon as the client closes the connection.

    The request's body must have been read: what comes next can only be the disconnect.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
