"""Passed: the answer of an upstream on its way to the client, part for part, each as soon as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, MutableMapping
from typing import Any

from starlette.responses import StreamingResponse

from fastserve.gateway.wire.endings import Events
from fastserve.gateway.wire.exchange import Exchange
from fastserve.gateway.wire.headers import Headers
from fastserve.http_client import HttpClientError
from fastserve.server.http.direct import Writer, writer_of

log = logging.getLogger("fastserve.gateway")

Receive = Callable[[], Any]
Send = Callable[[MutableMapping[str, Any]], Any]


class BrokenOffError(Exception):
    """An answer that is no stream of events broke off after some of it was sent: its connection is closed."""


class Passed(StreamingResponse):
    """exchange: its head is there. events: None for an answer that is none. done(error): called once, at its end,
    however that comes: None, or what went wrong; of a client that has left CLIENT_LEFT.

    A stage may wrap body_iterator; then every part goes through it.
    """

    def __init__(
        self,
        exchange: Exchange,
        headers: Headers,
        events: Events | None,
        first: bytes,
        name: str,
        done: Callable[[HttpClientError | None], None],
    ) -> None:
        self.exchange = exchange
        self.events = events
        self.first = first  # what has been read already
        self.name = name
        self.done: Callable[[HttpClientError | None], None] | None = done
        self.own = self._parts()
        super().__init__(self.own, exchange.status)
        self.raw_headers = headers

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        passing = asyncio.ensure_future(self._pass(scope, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            for task in (leaving, passing):
                task.cancel()
            await asyncio.wait((leaving, passing))
            await self.aclose()

    async def aclose(self) -> None:
        """Whoever does not send it, nor reads it to its end, calls this: the upstream is told."""
        close = getattr(self.body_iterator, "aclose", None)
        if close is not None:
            with contextlib.suppress(Exception):
                await close()
        if self.body_iterator is not self.own:
            await self.own.aclose()
        self.exchange.abort()
        self._end(CLIENT_LEFT)

    async def _pass(self, scope: MutableMapping[str, Any], send: Send) -> None:
        with contextlib.suppress(OSError):  # the client left during a write
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            writer = writer_of(scope)
            if self.body_iterator is self.own and self.events is not None and writer is not None and writer.ready:
                await self._push(writer, self.events)
            else:
                async for part in self.body_iterator:
                    data = part.encode() if isinstance(part, str) else part
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _push(self, writer: Writer, events: Events) -> None:
        """As _parts(), without a turn of this task for each part."""
        feed, write, exchange = events.feed, writer.write, self.exchange

        def take(data: bytes) -> bool:
            data = feed(data)
            return write(data) if data else True

        if self.first:
            take(self.first)
        exchange.push(take)
        while not exchange.over:
            await exchange.finished()
            if exchange.paused:
                await writer.drained()
                exchange.resume()
        if last := self._last(events, exchange.error):
            write(last)
        self._end(exchange.error)

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        events, error = self.events, None
        try:
            if data := self.first if events is None else events.feed(self.first):
                yield data
            while (part := await self.exchange.take()) is not None:
                if data := part if events is None else events.feed(part):
                    yield data
        except HttpClientError as found:
            error = found
        if events is not None and (last := self._last(events, error)):
            yield last
        self._end(error)
        if events is None and error is not None:
            raise BrokenOffError(self._said(error))

    def _last(self, events: Events, error: HttpClientError | None) -> bytes:
        """What an answer ends with: nothing where all is well."""
        if events.complete:
            return events.held
        if error is None and self.exchange.framed:
            return events.held
        return events.broken(self._said(error or HttpClientError("the stream ended too early")))

    def _said(self, error: HttpClientError) -> str:
        return f"upstream {self.name} broke off in the middle of its answer: {error}"

    def _end(self, error: HttpClientError | None) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(error)


CLIENT_LEFT = HttpClientError("the client has left")


async def _left(receive: Receive) -> None:
    """The body was read before, so the next message can only be the disconnect."""
    while (await receive())["type"] != "http.disconnect":
        pass
