"""HTTP/1.1 client with one connection for each request in flight: of the benchmark and of the gateway.

Timestamps are taken in the event loop's data_received callback; nothing is awaited for a chunk of a response. General
HTTP clients were measured first and could not keep the schedule (docs/bench.md), or cost too much (docs/gateway.md).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from time import perf_counter_ns
from typing import Generic, Protocol, TypeVar, cast
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


C = TypeVar("C", bound="Link")


class Connections(Generic[C]):
    """To one server. url: http or https, its path is a prefix. Raises ValueError for any other.

    Proxies and redirects are ignored, and responses are uncompressed.
    """

    def __init__(self, url: str, kind: type[C]) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not a server URL; write it as http://HOST:PORT")
        self.ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self.host = parts.hostname
        self.port = parts.port or (443 if self.ssl else 80)
        self.prefix = parts.path.rstrip("/")
        self.netloc = parts.netloc.rpartition("@")[2]
        self.kind = kind
        self._idle: deque[tuple[float, C]] = deque()  # oldest first

    def close(self) -> None:
        """Closes idle connections; those in use close as their requests end or are cancelled."""
        for _, link in self._idle:
            link.transport.abort()
        self._idle.clear()

    def reused(self) -> C | None:
        """A connection that has served before, if there is one."""
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._idle:
            since, link = self._idle.pop()
            if not link.lost and since >= oldest:
                return link
            link.transport.abort()
        return None

    def put_back(self, link: C) -> None:
        """Its response is complete: kept for the next request, or closed."""
        now = asyncio.get_running_loop().time()
        while self._idle and self._idle[0][0] < now - IDLE_S:
            self._idle.popleft()[1].transport.abort()
        if link.reusable:
            self._idle.append((now, link))
        else:
            link.transport.close()

    async def connect(self) -> C:
        """A new connection. Raises ConnectError."""
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_connection(self.kind, self.host, self.port, ssl=self.ssl)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConnectError(f"no connection to {self.netloc}: {reason}") from None
        return link


class Link(asyncio.Protocol):
    """One connection, with one request at a time. Subclasses say what becomes of a response: headed(), body(), ended();
    these must be fast, and must not raise.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.lost = False
        self.busy = False  # a response is awaited
        self.reusable = False
        self.framed = False  # the response has a length or is chunked
        self.status = 0
        self.now = 0

    def begin(self, request: bytes) -> None:
        """Raises HttpClientError where the connection has been lost."""
        self._parser = httptools.HttpResponseParser(self)
        self.framed = False
        self.now = 0
        self.status = 0
        self.reusable = False
        if self.lost:
            raise HttpClientError("the server closed the connection")
        self.busy = True
        self.transport.write(request)

    def headed(self) -> None:
        """Status and headers have come."""

    def body(self, data: bytes) -> None:
        """Some of its body, at self.now (perf_counter_ns)."""

    def ended(self, error: HttpClientError | None) -> None:
        """The response is complete, or never will be."""

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods, not by its class

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            self.transport.abort()  # data without a request
            return
        self.now = perf_counter_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"the response is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reusable = False
        if not self.busy:
            return
        if exc is None and self.status >= 200 and not self.framed:
            self._end(None)  # a body without a length ends with the connection
        else:
            reason = "the server closed the connection" if exc is None else f"the connection was lost: {exc}"
            self.fail(f"{reason} {'during its response' if self.status else 'before its response'}")

    def fail(self, error: str) -> None:
        """The response will never be complete."""
        self._end(HttpClientError(error))

    def _end(self, error: HttpClientError | None) -> None:
        if self.busy:
            self.busy = False
            self.ended(error)

    # -- httptools -------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self.framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self.headed()

    def on_body(self, body: bytes) -> None:
        if self.busy:
            self.body(body)

    def on_message_complete(self) -> None:
        if not self.status:
            return  # 1xx; the final response follows
        self.reusable = self.framed and self._parser.should_keep_alive()
        self._end(None)


class HttpClient(Connections["Connection"]):
    """Requests to one server, each with a Receiver; see Connections."""

    def __init__(self, url: str) -> None:
        super().__init__(url, Connection)

    async def send(self, request: bytes, receiver: Receiver) -> None:
        """Sends a request and returns when its response is complete. Cancellation closes the connection.

        Raises HttpClientError.
        """
        link = self.reused() or await self.connect()
        try:
            await link.exchange(request, receiver)
        except BaseException:
            link.transport.abort()
            raise
        self.put_back(link)


class Connection(Link):
    """Hands a response to a Receiver."""

    def __init__(self) -> None:
        super().__init__()
        self._kind = ""
        self._done: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None

    async def exchange(self, request: bytes, receiver: Receiver) -> None:
        """Raises HttpClientError."""
        self._kind = ""
        self._receiver = receiver
        self._done = asyncio.get_running_loop().create_future()
        self.begin(request)
        await self._done

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if name.lower() == b"content-type":
            self._kind = value.decode("latin-1")

    def headed(self) -> None:
        assert self._receiver is not None
        self._receiver.head(self.status, self._kind)

    def body(self, data: bytes) -> None:
        assert self._receiver is not None
        self._receiver.data(self.now, data)

    def ended(self, error: HttpClientError | None) -> None:
        assert self._done is not None
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
