"""HTTP/1.1 requests over as many connections as there are requests under way.

Answers are stamped in the very callback that the event loop makes for a readable socket; nothing is awaited for a piece
of an answer. The general clients were measured first and could not keep the schedule (docs/bench.md).
"""

from __future__ import annotations

import asyncio
import ssl
from time import perf_counter_ns
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

IDLE_S = 2.0
"""A connection that has been idle for longer is not used again: servers close theirs after some five seconds."""


class HttpClientError(Exception):
    """No whole answer came; the text says why."""


class ConnectError(HttpClientError):
    """There is no connection: the server never saw the request."""


class Receiver(Protocol):
    """Takes an answer as it comes. Must be quick, and raise nothing."""

    def head(self, status: int, content_type: str) -> None: ...
    def data(self, now: int, chunk: bytes) -> None: ...


class HttpClient:
    """Connections to one server. url: http or https, a path in it is a prefix. ValueError for anything else.

    Neither proxies nor redirects are followed, and answers are asked for uncompressed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is no address of a server; write it as http://HOST:PORT")
        self.ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self.host = parts.hostname
        self.port = parts.port or (443 if self.ssl else 80)
        self.prefix = parts.path.rstrip("/")
        self.netloc = parts.netloc.rpartition("@")[2]
        self._idle: list[tuple[float, Link]] = []

    async def send(self, request: bytes, receiver: Receiver) -> None:
        """Sends a request and returns when its answer is complete. Cancelled, it closes the connection.

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

    def _reused(self) -> Link | None:
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._idle:
            since, link = self._idle.pop()
            if not link.lost and since >= oldest:
                return link
            link.transport.abort()
        return None

    async def _connect(self) -> Link:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_connection(Link, self.host, self.port, ssl=self.ssl)
        except OSError as error:
            why = error.strerror or str(error)
            raise ConnectError(f"no connection to {self.netloc}: {why}") from None
        return link


class Link(asyncio.Protocol):
    """One connection, with one request at a time on it."""

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
        self._framed = False  # the end of the body shows in the data
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
            self.transport.abort()  # nobody has asked for anything
            return
        self._now = perf_counter_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reusable = False
        if self._done is None or self._done.done():
            return
        if exc is None and self._status >= 200 and not self._framed:
            self._done.set_result(None)  # such a body ends with its connection
        else:
            why = "the server closed the connection" if exc is None else f"the connection broke: {exc}"
            self._fail(f"{why} {'within its answer' if self._status else 'before it answered'}")

    def _fail(self, why: str) -> None:
        assert self._done is not None
        if not self._done.done():
            self._done.set_exception(HttpClientError(why))

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
            return  # an interim answer; the real one follows
        self.reusable = self._framed and self._parser.should_keep_alive()
        assert self._done is not None
        if not self._done.done():
            self._done.set_result(None)
