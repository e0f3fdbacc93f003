"""Server-sent events (SSE): streaming responses, keep-alive comments, and cancellation when the client disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from starlette.responses import Response

from fastserve.engine.request import Piece
from fastserve.server.jobs.jobs import Group

KEEPALIVE_S = 15.0
"""Seconds without an event after which a keep-alive comment is sent: the request may be preempted."""

KEEPALIVE = b": wait\n\n"
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
"""`content` of a streaming response in the OpenAPI schema."""

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """chunks: whole events. disconnect() is called when the client has disconnected, and must end `chunks` soon."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes], disconnect: Callable[[], None]) -> None:
        self.chunks = chunks
        self.disconnect = disconnect
        self.status_code = 200
        self.background = None
        self.body = b""
        self.raw_headers = list(HEADERS)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async with on_disconnect(receive, self.disconnect), contextlib.aclosing(self.chunks):  # type: ignore[type-var]
            with contextlib.suppress(OSError):  # the client disconnected during a write
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for chunk in self.chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


class Format(Protocol):
    """An API's SSE format. Each method returns whole events, or nothing."""

    def opening(self) -> bytes: ...
    def piece(self, choice: int, piece: Piece) -> bytes: ...
    def closing(self) -> bytes: ...


def stream_response(group: Group, form: Format) -> EventStream:
    """The SSE response of a group. When the client disconnects, its jobs are cancelled within one iteration."""
    return EventStream(_events(group, form), group.queue.disconnect)


async def _events(group: Group, form: Format) -> AsyncIterator[bytes]:
    queue = group.queue
    try:
        opening = form.opening()
        if opening:
            yield opening
        while queue.pieces or not group.ended:
            taken = await queue.get(KEEPALIVE_S)
            if queue.disconnected:
                return
            chunk = b"".join([form.piece(choice, piece) for choice, piece in taken]) if taken else KEEPALIVE
            if chunk:
                yield chunk
        yield form.closing()
    finally:
        group.cancel()


@contextlib.asynccontextmanager
async def on_disconnect(receive: Receive, callback: Callable[[], object]) -> AsyncIterator[None]:
    """While the block runs, callback() is called when the client closes the connection.

    The request's body must have been read before, so that the next ASGI message can only be the disconnect.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        callback()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
