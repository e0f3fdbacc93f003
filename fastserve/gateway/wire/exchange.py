"""Exchange: one request to an upstream and its answer, as it comes. Reading stops while nobody takes what has come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from fastserve.gateway.wire.headers import Headers
from fastserve.http_client import ConnectError, Connections, HttpClientError, Link

HEAD_BYTES = 64 << 10
"""Bytes of an answer's head, and of what stands around its body (trailers, framing)."""

HELD = 256 << 10
"""Bytes of an answer that may wait for who takes them; reading goes on below half of it."""

HEAD_S = 10.0
"""Seconds in which a head that has begun must be complete."""


class UpstreamLink(Link):
    """A connection to an upstream: bounded in what it takes for a head, and paused on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.exchange: Exchange | None = None
        self.headers: Headers = []
        self.unread = 0  # bytes that have come since the last of a body
        self.paused = False

    def begin(self, request: bytes) -> None:
        self.headers = []
        self.unread = 0
        super().begin(request)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            exchange.quiet = 0.0
        self.unread += len(data)
        super().data_received(data)
        if self.unread > HEAD_BYTES and self.busy:
            self.fail(f"headers of more than {HEAD_BYTES:,} bytes")
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if not self.status:  # else a trailer
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if not self.status:  # 1xx
            self.headers = []

    def headed(self) -> None:
        if self.status > 599:
            self.fail(f"the response is not HTTP: its status is {self.status}")
        elif self.exchange is not None:
            self.exchange.headed(self.status, self.headers)

    def on_body(self, body: bytes) -> None:
        self.unread = 0
        super().on_body(body)

    def body(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.part(data)

    def ended(self, error: HttpClientError | None) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.ended(error)

    def pause(self) -> None:
        if not self.paused and not self.lost:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if not self.lost:
                self.transport.resume_reading()


class Exchange:
    """begin() it, await head(), then take() the parts, or push() them somewhere; abort() it at any time.

    quiet: seconds for which nothing has come, as Watch counts them.
    """

    def __init__(self, connections: Connections[UpstreamLink]) -> None:
        self.connections = connections
        self.link: UpstreamLink | None = None
        self.status = 0
        self.headers: Headers = []
        self.error: HttpClientError | None = None
        self.over = False
        self.request = b""
        self.connect_timeout = 0.0
        self.fresh = True  # the connection was made for this request
        self.heard = False  # something has come
        self.framed = False  # the answer had a length or was chunked: its end is no guess
        self.quiet = 0.0
        self.head_s = 0.0  # since the first byte of a head that is not complete
        self._head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._taker: asyncio.Future[None] | None = None
        self._push: Callable[[bytes], bool] | None = None

    async def begin(self, request: bytes, connect_timeout: float) -> None:
        """Raises ConnectError: the upstream has not got the request."""
        self.request, self.connect_timeout = request, connect_timeout
        link = self.connections.reused()
        self.fresh = link is None
        self._send(link or await self._connect())

    async def _connect(self) -> UpstreamLink:
        try:
            async with asyncio.timeout(self.connect_timeout):
                return await self.connections.connect()
        except TimeoutError:
            what = f"no connection to {self.connections.netloc} within {self.connect_timeout:g} s"
            raise ConnectError(what) from None

    def _send(self, link: UpstreamLink) -> None:
        self.link = link
        link.exchange = self
        try:
            link.begin(self.request)
        except HttpClientError as error:
            raise ConnectError(str(error)) from None

    async def head(self) -> None:
        """When status and headers are there. Raises HttpClientError; of a cancelled task the request is taken back."""
        try:
            try:
                await self._head
            except HttpClientError as error:
                if self.fresh or self.heard or type(error) is not HttpClientError:
                    raise
                # A kept connection, which its server has closed meanwhile: that says nothing of the server.
                self.fresh, self.over, self.error = True, False, None
                self._head = asyncio.get_running_loop().create_future()
                self._send(await self._connect())
                await self._head
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self.request = b""

    async def take(self) -> bytes | None:
        """The next part of the body; None at its end. Raises HttpClientError where it breaks off."""
        while not self._parts:
            if self.over:
                if self.error is not None:
                    raise self.error
                return None
            self._taker = asyncio.get_running_loop().create_future()
            await self._taker
        data = self._parts.popleft()
        self._held -= len(data)
        if self._held < HELD // 2:
            self.resume()
        return data

    def push(self, take: Callable[[bytes], bool]) -> None:
        """Every part goes to take() as it comes; where that is False, nothing more is read until resume()."""
        self._push = take
        while self._parts:
            self._held = 0
            if not take(self._parts.popleft()):
                self.pause()

    async def finished(self) -> None:
        """When there is nothing more to push, or reading is paused; does not raise: see over and error."""
        if not self.over and not self.paused:
            self._taker = asyncio.get_running_loop().create_future()
            await self._taker

    def pause(self) -> None:
        if self.link is not None:
            self.link.pause()
        self._wake()

    def resume(self) -> None:
        if self.link is not None:
            self.link.resume()

    @property
    def paused(self) -> bool:
        return self.link is not None and self.link.paused

    def abort(self, error: HttpClientError | None = None) -> None:
        """Ends it now, if it has not ended. The upstream sees its client leave."""
        link, self.link = self.link, None
        if link is not None and not self.over:
            link.exchange = None
            link.busy = False
            link.transport.abort()
            self._settle(error)

    # -- of the link -----------------------------------------------------------------------------------------------

    def headed(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        if not self._head.done():
            self._head.set_result(None)

    def part(self, data: bytes) -> None:
        if self._push is not None:
            if not self._push(data):
                self.pause()
            return
        self._parts.append(data)
        self._held += len(data)
        if self._held > HELD and self.link is not None:
            self.link.pause()
        self._wake()

    def ended(self, error: HttpClientError | None) -> None:
        link, self.link = self.link, None
        assert link is not None
        link.resume()
        self.framed = link.framed
        self.heard = link.unread > 0 or link.status > 0
        if error is None:
            self.connections.put_back(link)
        else:
            link.transport.abort()
        self._settle(error)

    def _settle(self, error: HttpClientError | None) -> None:
        self.over = True
        self.error = error
        if not self._head.done():
            if error is None:
                self._head.cancel()
            else:
                self._head.set_exception(error)
                self._head.exception()  # it may be that nobody waits
        self._wake()

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
