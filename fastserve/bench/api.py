"""HttpApi: sends calls over HTTP and fills their replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter_ns
from urllib.parse import quote

from fastserve.bench.api_formats import Format, error_message
from fastserve.bench.call import CANCELLED, REJECTED, UNFINISHED, Call, Reply
from fastserve.bench.sse import Event, EventParser
from fastserve.http_client import ConnectError, HttpClient, HttpClientError

STATUS_FINISH = {408: UNFINISHED, 409: CANCELLED, 504: UNFINISHED}
"""HTTP status other than 200 -> outcome of the request; any other status: rejected."""


class HttpApi:
    """A server at an HTTP URL.

    endpoint: a path instead of that of `format`. headers: additional ones. Raises ValueError for an invalid URL or
    header.
    """

    def __init__(
        self, url: str, format: Format, *, endpoint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.format = format
        self.client = HttpClient(url)
        path = self.client.prefix + "/" + (endpoint or format.path).lstrip("/")
        fields = {
            "Host": self.client.netloc,
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if format.streamed else "application/json",
            **(headers or {}),
        }
        for name, value in fields.items():
            if not name.isascii() or any(sign in name + value for sign in "\r\n\0") or ":" in name or " " in name:
                raise ValueError(f"{name!r}: {value!r} is not a valid HTTP header")
        self._lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        self._head = f"POST {path} HTTP/1.1\r\n{self._lines}".encode("latin-1")

    def encode(self, call: Call) -> bytes:
        """The HTTP request as bytes. Called before the call is due, so that it does not delay the schedule."""
        body = json.dumps(self.format.body(call), separators=(",", ":")).encode()
        own = "".join([f"{name}: {value}\r\n" for name, value in self.format.headers(call).items()]).encode("ascii")
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._head, own, len(body), body)

    async def send(self, message: bytes, reply: Reply) -> None:
        """Sends an encoded request and fills `reply`. A failure is recorded there, not raised."""
        if self.format.options.keep_text:
            reply.text = []
        response = ResponseReader(self.format, reply)
        reply.sent = perf_counter_ns()
        try:
            await self.client.send(message, response)
            response.end()
        except ConnectError as error:
            reply.fail(str(error), REJECTED)
        except HttpClientError as error:
            reply.fail(str(error))

    async def end_program(self, name: str) -> None:
        """Tells our own server that nothing of it follows; a failure is of no account."""
        if self.format.options.own:
            path = f"{self.client.prefix}/programs/{quote(name, safe='')}"
            message = f"DELETE {path} HTTP/1.1\r\n{self._lines}\r\n".encode("latin-1")
            with suppress(HttpClientError):
                await self.client.send(message, _Ignored())

    def close(self) -> None:
        self.client.close()


class _Ignored:
    """Whatever is answered."""

    def head(self, status: int, content_type: str) -> None: ...
    def data(self, now: int, chunk: bytes) -> None: ...


class ResponseReader:
    """Parses one HTTP response into a Reply."""

    def __init__(self, format: Format, reply: Reply) -> None:
        self.format = format
        self.reply = reply
        self._streams = False
        self._events: EventParser | None = None
        self._body = b""
        self._now = 0

    def head(self, status: int, content_type: str) -> None:
        self.reply.status = status
        self._streams = status == 200 and content_type.startswith("text/event-stream")
        if self._streams and self.format.streamed:
            self._events = EventParser()

    def data(self, now: int, chunk: bytes) -> None:
        if self._events is None:
            self._body += chunk
            self._now = now
            return
        for event in self._events.feed(chunk):
            self._read(event, now)

    def end(self) -> None:
        """The response is complete."""
        reply = self.reply
        if reply.status != 200:
            try:
                message = error_message(json.loads(self._body))
            except ValueError:
                message = self._body[:500].decode(errors="replace")
            reply.fail(f"HTTP {reply.status}: {message}".rstrip(": "), STATUS_FINISH.get(reply.status, REJECTED))
        elif self.format.streamed is not self._streams:
            reply.fail(f"the server {'did not stream' if self.format.streamed else 'streamed'} its response")
        elif not self.format.streamed:
            self._read(Event("", self._body.decode(errors="replace")), self._now)
        elif not reply.finish:
            reply.fail("the stream ended without a finish reason")
        self.format.closed(reply)

    def _read(self, event: Event, now: int) -> None:
        try:
            self.format.read(event, now, self.reply)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            self.reply.fail(f"an event cannot be parsed ({type(error).__name__}: {error}): {event.data[:200]}")
