"""HTTP/1.1 client with one connection for each request in flight.

Timestamps are taken in the event loop's data_received callback; nothing is awaited for a chunk of a response. General
HTTP clients were measured first and could not keep the schedule (docs/bench.md).
"""

from __future__ import annotations

import asyncio
import ssl
from time import perf_counter_ns
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

IDLE_S = 2.0
"""A connection idle for longer is not reused: servers close theirs after about five seconds."""


class HttpClientError(Exception):
    """No complete response was received; the message says why."""


class ConnectError(HttpClientError):
    """The connection failed: the server did not receive the request."""


class Receiver(Protocol):
    """Receives a response incrementally. Must be fast, and must not raise."""

    def head(self, status: int, content_type: str) -> None: ...
    def data(self, now: int, chunk: bytes) -> None: ...


class HttpClient:
    """Connections to one server. url: http or https, its path is a prefix. Raises ValueError for any other.

    Proxies and redirects are ignored, and responses are uncompressed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not a server URL; write it as http://HOST:PORT")
        self.ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self.host = parts.hostname
        self.port = parts.port or (443 if self.ssl else 80)
        self.prefix = parts.path.rstrip("/")
        self.netloc = parts.netloc.rpartition("@")[2]
        self._idle: list[tuple[float, Connection]] = []

    async def send(self, request: bytes, receiver: Receiver) -> None:
        """Sends a request and returns when its response is complete. Cancellation closes the connection.

        Raises HttpClientError.
        """
        link = self._reused() or await self._connect()
        try:
            await link.exchange(request, receiver)
        except BaseException:
            link.transport.abort()
            raise
        if link.reusable:
            self._idle.append((asyncio.get_running_loop().time(), link))
        else:
            link.transport.close()

    def close(self) -> None:
        """Closes idle connections; those in use close as their requests end or are cancelled."""
        for _, link in self._idle:
            link.transport.abort()
        self._idle.clear()

    def _reused(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._idle:
            since, link = self._idle.pop()
            if not link.lost and since >= oldest:
                return link
            link.transport.abort()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_connection(Connection, self.host, self.port, ssl=self.ssl)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConnectError(f"no connection to {self.netloc}: {reason}") from None
        return link


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.lost = False
        self.reusable = False
        self._done: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None

    async def exchange(self, request: bytes, receiver: Receiver) -> None:
        self._receiver = receiver
        self._done = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._now = 0
        self._kind = ""
        self._framed = False  # the response has a length or is chunked
        self._status = 0
        self.reusable = False
        if self.lost:
            raise HttpClientError("the server closed the connection")
        self.transport.write(request)
        await self._done

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods, not by its class

    def data_received(self, data: bytes) -> None:
        if self._done is None or self._done.done():
            self.transport.abort()  # data without a request
            return
        self._now = perf_counter_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the response is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reusable = False
        if self._done is None or self._done.done():
            return
        if exc is None and self._status >= 200 and not self._framed:
            self._done.set_result(None)  # a body without a length ends with the connection
        else:
            reason = "the server closed the connection" if exc is None else f"the connection was lost: {exc}"
            self._fail(f"{reason} {'during its response' if self._status else 'before its response'}")

    def _fail(self, error: str) -> None:
        assert self._done is not None
        if not self._done.done():
            self._done.set_exception(HttpClientError(error))

    # -- httptools -------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._kind = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status
            assert self._receiver is not None
            self._receiver.head(status, self._kind)

    def on_body(self, body: bytes) -> None:
        assert self._receiver is not None
        self._receiver.data(self._now, body)

    def on_message_complete(self) -> None:
        if not self._status:
            return  # 1xx; the final response follows
        self.reusable = self._framed and self._parser.should_keep_alive()
        assert self._done is not None
        if not self._done.done():
            self._done.set_result(None)
