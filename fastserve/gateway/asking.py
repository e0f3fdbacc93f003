"""Asking: the gateway's own small questions to an upstream (health, models, load), within bounds."""

from __future__ import annotations

import json
from typing import Any

from fastserve.gateway.upstream import Upstream
from fastserve.gateway.wire.exchange import Exchange
from fastserve.http_client import HttpClientError
from fastserve.server.http.auth import spoken

MOST = 4 << 20
"""Bytes of an answer."""


class AnswerError(Exception):
    """The upstream has answered otherwise than it should. status: of its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Asking:
    """connect_timeout: s. The caller bounds the whole."""

    def __init__(self, connect_timeout: float) -> None:
        self.connect_timeout = connect_timeout

    async def json(self, upstream: Upstream, path: str, sent: Any = None) -> Any:
        """What GET path answers, parsed, or POST where something is sent as JSON; None where it is no JSON.

        Raises AnswerError or HttpClientError.
        """
        body = await self.text(upstream, path, sent)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None

    async def text(self, upstream: Upstream, path: str, sent: Any = None) -> bytes:
        """What path answers. Raises AnswerError for a status that is no success, or HttpClientError."""
        status, body = await self.answer(upstream, path, sent)
        if status != 200:
            raise AnswerError(status, f"status {status} at {path}")
        return body

    async def answer(
        self, upstream: Upstream, path: str, sent: Any = None, method: str = "", client: str | None = None
    ) -> tuple[int, bytes]:
        """Status and body. sent: what is posted, as JSON; None: a GET, or another method. client: for whom a server of
        ours is asked; None: for the gateway itself. Raises AnswerError or HttpClientError.
        """
        lines = b"" if client is None else spoken(client)
        exchange = Exchange(upstream.connections)
        try:
            usual, body = ("GET", None) if sent is None else ("POST", json.dumps(sent).encode())
            await exchange.begin(request_of(method or usual, upstream, path, lines, body), self.connect_timeout)
            await exchange.head()
            found = bytearray()
            while (part := await exchange.take()) is not None:
                found += part
                if len(found) > MOST:
                    raise AnswerError(exchange.status, f"an answer of more than {MOST:,} bytes at {path}")
        finally:
            exchange.abort(HttpClientError("not awaited any longer"))
        return exchange.status, bytes(found)


def request_of(method: str, upstream: Upstream, path: str, lines: bytes = b"", body: bytes | None = None) -> bytes:
    """A request, with the upstream's key. lines: further headers. body: JSON."""
    connections = upstream.connections
    head = f"{method} {connections.prefix}{path} HTTP/1.1\r\nhost: {connections.netloc}\r\n".encode("latin-1")
    if upstream.key is not None:
        head += f"authorization: Bearer {upstream.key.get_secret_value()}\r\n".encode("latin-1")
    head += b"accept-encoding: identity\r\n"
    if body is None:
        return head + lines + b"\r\n"
    return b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (head, lines, len(body), body)
