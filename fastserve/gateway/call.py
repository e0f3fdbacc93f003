"""Call: one generating request on its way through the gateway; Stage: what it passes; Part: what has both and routes.

A stage may answer itself, change the call, or look at the answer of the next one. Answers that stream are
StreamingResponses, whose `body_iterator` a stage may wrap (bytes as they came from the upstream; of server-sent events
whole ones). Who neither returns an answer nor reads it by whole() must leave() it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.responses import Response

from fastserve.server.api.errors import ApiError

MOST_WHOLE = 16 << 20
"""Bytes of an answer that is needed whole, because it is put into another form: it is held in memory."""


@dataclass(slots=True, eq=False)
class Call:
    """fields: the body parsed, read only (see rewrite()); None where it is no JSON object. client: the token's, else
    `user`, else "default". arrival: ns, time.monotonic_ns(). disconnected(): the client has left; its handler is
    cancelled then anyway.
    """

    path: str
    body: bytes
    fields: dict[str, Any] | None
    headers: Headers
    model: str
    client: str
    authenticated: bool
    stream: bool
    request_id: str
    arrival: int
    disconnected: Callable[[], bool] = field(default=lambda: False)
    method: str = "POST"
    query: str = ""

    def rewrite(self, **changes: Any) -> None:
        """Sets fields of the body, and what is read from them; None takes a field away."""
        fields = {**(self.fields or {}), **changes}
        self.fields = {name: value for name, value in fields.items() if name not in changes or value is not None}
        self.body = json.dumps(self.fields, separators=(",", ":")).encode()
        self.model = str(self.fields.get("model") or "")
        self.stream = bool(self.fields.get("stream"))


Next: TypeAlias = Callable[[Call], Awaitable[Response]]
Stage: TypeAlias = Callable[[Call, Next], Awaitable[Response]]


class Part(Protocol):
    """Something with routes and a life of its own; see app.PARTS. start() is awaited before the first request, stop()
    after the last one. status(): JSON, shown under its name in GET /status and /gateway/status; no secrets.
    """

    name: str
    router: APIRouter | None
    stage: Stage | None

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def status(self) -> dict[str, Any]: ...


async def whole(response: Response) -> bytes:
    """The body of an answer, read to its end; a response that streamed can then be sent no more.

    Raises ApiError 502 for one of more than MOST_WHOLE bytes.
    """
    iterator = getattr(response, "body_iterator", None)
    if iterator is None:
        return bytes(response.body)
    body = bytearray()
    try:
        async for part in iterator:
            body += part.encode() if isinstance(part, str) else part
            if len(body) > MOST_WHOLE:
                raise ApiError(502, f"the upstream's answer is longer than {MOST_WHOLE:,} bytes")
        return bytes(body)
    finally:
        await leave(response)


async def leave(response: Response) -> None:
    """Of an answer that is not sent: its upstream, if it has one, is told that nobody reads it."""
    await closed(response)


async def closed(parts: Any) -> None:
    """Of what a stage wraps, as a body_iterator: nobody reads it any more."""
    close = getattr(parts, "aclose", None)
    if close is not None:
        await close()
