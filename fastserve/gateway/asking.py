"""Asking: the gateway's own small questions to an upstream (health, models, load), within bounds."""

from __future__ import annotations

import json
from typing import Any

from fastserve.gateway.upstream import Upstream
from fastserve.gateway.wire.exchange import Exchange
from fastserve.http_client import HttpClientError

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

    async def json(self, upstream: Upstream, path: str) -> Any:
        """What GET path answers, parsed; None where it is no JSON. Raises AnswerError or HttpClientError."""
        body = await self.text(upstream, path)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None

    async def text(self, upstream: Upstream, path: str) -> bytes:
        """What GET path answers. Raises AnswerError for a status that is no success, or HttpClientError."""
        status, body = await self._asked(upstream, path, request_of("GET", upstream, path))
        if status != 200:
            raise AnswerError(status, f"status {status} at {path}")
        return body

    async def post(self, upstream: Upstream, path: str, fields: Any) -> tuple[int, bytes]:
        """Status and body of the answer to POST path with these fields as JSON. Raises HttpClientError."""
        return await self._asked(upstream, path, request_of("POST", upstream, path, body=json.dumps(fields).encode()))

    async def _asked(self, upstream: Upstream, path: str, request: bytes) -> tuple[int, bytes]:
        exchange = Exchange(upstream.connections)
        try:
            await exchange.begin(request, self.connect_timeout)
            await exchange.head()
            body = bytearray()
            while (part := await exchange.take()) is not None:
                body += part
                if len(body) > MOST:
                    raise AnswerError(exchange.status, f"an answer of more than {MOST:,} bytes at {path}")
        finally:
            exchange.abort(HttpClientError("not awaited any longer"))
        return exchange.status, bytes(body)


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
