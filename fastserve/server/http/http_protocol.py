"""BoundedProtocol: uvicorn's HTTP/1.1 on httptools, with bounds on what reaches us before authentication.

uvicorn has no limit for headers, none for the time in which a request must arrive, and none by address. Here: 431 for a
request line or headers that are too long or too many, 408 for a request that does not arrive in time, 503 for
connections beyond the limits, a bounded pipeline, and an end for clients that do not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fastserve.server.api.errors import ApiError, error_response
from fastserve.server.config.http_settings import HttpSettings
from fastserve.server.http.connections import HEALTH, RESERVED_SECONDS, Connections, fit_descriptors
from fastserve.server.http.direct import WRITER, Writer

SLICE = 16 << 10
"""Bytes that are parsed in one go: what a slice holds too much is seen before the next one."""

MAX_PIPELINED = 8
"""Requests that may wait on one connection behind the one that is answered; nothing is read beyond them."""

LINGER_SECONDS = 2.0
"""For which a refused client may go on sending, so that it reads why; a close with unread bytes would be a reset."""

CHUNKED = 8
"""Bytes of framing that a byte of a chunked body may cost."""

_TOO_MANY = "too many connections are open; only health is answered on further ones"


class Bounds(NamedTuple):
    """Bytes and seconds."""

    header_bytes: int
    headers: int
    header_timeout: float
    body_timeout: float
    stall_timeout: float


def bounded(config: HttpSettings) -> type[asyncio.Protocol]:
    """The protocol class of one server, for uvicorn.Config(http=...)."""
    most = fit_descriptors(config.max_connections)

    class Protocol(BoundedProtocol):
        places = Connections(most, config.max_connections_per_address)
        bounds = Bounds(
            round(config.max_header_kib * 1024), config.max_headers, config.header_timeout, config.body_timeout,
            config.stall_timeout,
        )  # fmt: skip

    return Protocol


class _RefusedError(Exception):
    """Ends the parsing; the protocol's `refusal` says why."""


class BoundedProtocol(HttpToolsProtocol):
    places: Connections
    bounds: Bounds

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.ordinary = True  # not one of the connections that are reserved for health checks
        self.begun = False  # a request has begun to arrive
        self.in_body = False  # its headers have arrived, its body not yet
        self.deaf = False  # nothing more is read
        self.unread = 0  # bytes since the last progress, that the parser may keep
        self.header_bytes = 0
        self.trailers = 0
        self.refusal: ApiError | None = None
        self.arrival: asyncio.TimerHandle | None = None
        self.ending: asyncio.TimerHandle | None = None

    # -- the connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.ordinary = self.places.enter(self, self.client[0] if self.client else "")
        self._expect(self.bounds.header_timeout if self.ordinary else RESERVED_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.places.leave(self)
        self._expect(None)
        self._end_after(None)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def drop(self) -> None:
        self.places.tell(_TOO_MANY)
        if not self.deaf and not self.transport.is_closing():
            self.transport.write(self._answer(ApiError(503, _TOO_MANY, retry_after=1)))
        self.transport.abort()

    # -- what arrives ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), SLICE):
            if self.deaf or self.transport.is_closing():
                return
            piece = data[start : start + SLICE] if len(data) > SLICE else data
            self.unread += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade:  # to no protocol that is spoken here
                pass
            except httptools.HttpParserError:
                if not self.deaf:
                    self._refuse(self.refusal or ApiError(400, "this is not an HTTP/1.1 request"))
                return
            if self.unread > self.bounds.header_bytes + SLICE:
                self._refuse(self._headers_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self.begun, self.header_bytes, self.trailers = True, 0, 0
        if self.ordinary:
            self._expect(self.bounds.header_timeout)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers of a chunked body come here, too: counted, and else ignored (RFC 9110, 6.5.1), or one could name
        another client, address or proxy than the headers that were looked at.
        """
        self._count_header(len(name) + len(value) + 4)
        if self.in_body:
            self.trailers += 1
        else:
            super().on_header(name, value)
        if len(self.headers) + self.trailers > self.bounds.headers:
            self._stop(ApiError(431, f"more than {self.bounds.headers} headers; see --max-headers"))

    def on_headers_complete(self) -> None:
        self.unread = 0
        if not self.ordinary and not self.url.partition(b"?")[0].decode("latin-1").endswith(HEALTH):
            self._stop(ApiError(503, _TOO_MANY, retry_after=1))
        if len(self.pipeline) >= MAX_PIPELINED:
            self.pipeline[0][0].keep_alive = False  # the newest: the connection is closed behind it
            self.deaf = True
            self._expect(None)
            raise _RefusedError
        self.in_body = True
        self._expect(self.bounds.body_timeout if self.ordinary else RESERVED_SECONDS)
        super().on_headers_complete()
        self.cycle.scope["extensions"] = {WRITER: Writer(self.cycle)}  # type: ignore[dict-item]
        if not self.ordinary:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self.unread = max(0, self.unread - CHUNKED * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.begun = self.in_body = False
        self.unread = 0
        self._expect(None)
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # answered before it had arrived
            self._set_keepalive()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.in_body and not self.pipeline:  # the rest of the body is awaited, by `arrival`
            self._unset_keepalive_if_required()
        if self.transport.is_closing():
            self._end_after(self.bounds.stall_timeout)

    # -- time ------------------------------------------------------------------------------------------------------

    def _expect(self, seconds: float | None) -> None:
        """The rest of a request, or of its headers, within so many seconds; None: nothing."""
        if self.arrival is not None:
            self.arrival.cancel()
        self.arrival = None if seconds is None else self.loop.call_later(seconds, self._late, seconds)

    def _late(self, seconds: float) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (answering and not self.in_body):  # we do not read, or it is the next request
            self._expect(seconds)
        elif not self.begun:
            self.transport.close()
        else:
            what = "body" if self.in_body else "headers"
            self._refuse(ApiError(408, f"the {what} of this request did not arrive within {seconds:g} s"))

    def _set_keepalive(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_after(self.bounds.stall_timeout)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_after(self.bounds.stall_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._end_after(None)

    def _end_after(self, seconds: float | None) -> None:
        """Gives the client up after so many seconds; None: no longer."""
        if self.ending is not None:
            self.ending.cancel()
        abort: Callable[[], None] = self.transport.abort
        self.ending = None if seconds is None else self.loop.call_later(seconds, abort)

    # -- refusals --------------------------------------------------------------------------------------------------

    def _count_header(self, size: int) -> None:
        self.unread = 0
        self.header_bytes += size
        if self.header_bytes > self.bounds.header_bytes:
            self._stop(self._headers_too_large())

    def _headers_too_large(self) -> ApiError:
        return ApiError(
            431, f"request line and headers of more than {self.bounds.header_bytes:,} bytes; see --max-header-kib"
        )

    def _stop(self, refusal: ApiError) -> None:
        """Out of a callback of the parser."""
        self.refusal = refusal
        raise _RefusedError

    def _refuse(self, refusal: ApiError) -> None:
        """Answers, closes our half of the connection, and listens no more."""
        self.places.tell(f"{refusal.status} {HTTPStatus(refusal.status).phrase}")
        self.deaf = True
        self._expect(None)
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering:
            cycle.disconnected = True
            cycle.message_event.set()
        if self.transport.is_closing():
            return
        if answering and (cycle.response_started or not self.in_body or self.pipeline):
            self.transport.close()  # an answer here would stand within, or before, that of another request
            self._end_after(LINGER_SECONDS)
            return
        self.flow.resume_reading()
        self.transport.write(self._answer(refusal))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._end_after(LINGER_SECONDS)

    def _answer(self, refusal: ApiError) -> bytes:
        path = (self.url if self.begun else b"").partition(b"?")[0].decode("latin-1")
        response = error_response(path, refusal)
        head = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n".encode()]
        head += [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
        return b"".join([*head, b"connection: close\r\n\r\n", bytes(response.body)])
