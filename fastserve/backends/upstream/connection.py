"""Connection: HTTP to one server, blocking, on the thread of whoever asks; any other thread may cut it off.

The standard library's client, a thread for each stream: at 64 streams and 1,280 events a second it took 0.25 to 0.4 s
of CPU for 10,000 events, httpx 0.4 to 0.6 (same minute, two runs each); asyncio would be a second loop.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

CONNECT_S: Final = 5.0
"""Seconds for a connection to stand."""

ANSWER_S: Final = 10.0
"""Seconds for the answer to a question that is not a completion."""

LONGEST_LINE: Final = 1 << 20
"""Bytes of a line of a stream; a longer one has no end."""

LONGEST_ANSWER: Final = 64 << 20
"""Bytes of an answer that is no stream."""

AGAIN: Final = (429, 502, 503, 504)
"""HTTP statuses of a server that is not ready: it is asked again."""

MOST_OF_AN_ERROR: Final = 600
"""Characters of an upstream's words that are passed on."""


class UpstreamError(Exception):
    """What the upstream said, or did, that ends this request. status: of HTTP, 0 within a stream."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class BrokenError(ConnectionError):
    """The connection was lost, or could not be made; the request may be sent again. sent: whether it had been."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Address:
    """Where the upstream is. key: of its `Authorization: Bearer`, which no message contains.

    Raises ValueError for what is no http or https URL.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        text = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"upstream={url!r}: {error}; write it as http://HOST:PORT") from None
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                f"upstream: an address with a name or password in it would be logged; give {parts.scheme}://{host} and "
                "the key as upstream_key (FASTSERVE_UPSTREAM_KEY)"
            )
        odd = port == 0 or any(letter <= " " or letter == "\x7f" for letter in text)
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or odd:
            raise ValueError(f"upstream={url!r} is no address of a server; write it as http://HOST:PORT")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ValueError("upstream_key: it has characters that no HTTP header can carry")
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.host: str = host
        self.port: int = port or (443 if self.tls else 80)
        self.prefix = parts.path.rstrip("/").removesuffix("/v1")  # as OpenAI's clients take it, or without
        self.url = f"{parts.scheme}://{parts.netloc}{self.prefix}"
        self._key = key

    @property
    def headers(self) -> dict[str, str]:
        found = {"Content-Type": "application/json", "Accept": "*/*"}
        if self._key:
            found["Authorization"] = f"Bearer {self._key}"
        return found

    def hidden(self, text: str) -> str:
        """What the upstream says, without the key if it repeats that."""
        return text.replace(self._key, "***") if self._key else text

    @property
    def has_key(self) -> bool:
        return bool(self._key)


class Connection:
    """One exchange after the other. silence_s: seconds for which a stream may say nothing at all."""

    def __init__(self, address: Address, silence_s: float = 600.0) -> None:
        self.address = address
        self.silence_s = silence_s
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = ANSWER_S) -> Any:
        """The JSON of an answer, or its text where it is none. Raises UpstreamError and BrokenError."""
        client, response = self._send(method, path, body, timeout_s)
        try:
            data = response.read(LONGEST_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise BrokenError(self.address.hidden(f"{self.address.url}{path}: {_why(error)}"), sent=True) from None
        finally:
            self._release(client)
        text = data.decode(errors="replace")
        with suppress(ValueError):
            return json.loads(text)
        return text

    def lines(self, path: str, body: Any) -> Iterator[bytes]:
        """Each line of a streamed answer. Raises UpstreamError and BrokenError. Ends with the answer, or when cut."""
        client, response = self._send("POST", path, body, self.silence_s)
        try:
            while not self._cut:
                try:
                    line = response.readline(LONGEST_LINE + 1)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise BrokenError(self.address.hidden(f"{self.address.url}: {_why(error)}"), sent=True) from None
                if len(line) > LONGEST_LINE:
                    raise UpstreamError(f"the upstream sent a line of more than {LONGEST_LINE} bytes")
                if not line:
                    return
                yield line
        finally:
            self._release(client)

    def cut(self) -> None:
        """From any thread: whoever reads is told at once, and nothing more is sent."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _send(
        self, method: str, path: str, body: Any, timeout_s: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        where = self.address
        client: http.client.HTTPConnection
        if where.tls is None:
            client = http.client.HTTPConnection(where.host, where.port, timeout=CONNECT_S)
        else:
            client = http.client.HTTPSConnection(where.host, where.port, timeout=CONNECT_S, context=where.tls)
        sent = False
        try:
            client.connect()
            self._hold(client, timeout_s)
            data = None if body is None else json.dumps(body).encode()
            sent = True
            client.request(method, where.prefix + path, data, where.headers)
            response = client.getresponse()
            if response.status >= 300:
                raise UpstreamError(self._words(response, path), response.status)
        except UpstreamError:
            self._release(client)
            raise
        except (OSError, http.client.HTTPException) as error:
            self._release(client)
            raise BrokenError(where.hidden(f"{where.url}{path}: {_why(error)}"), sent=sent) from None
        except BaseException:
            self._release(client)
            raise
        return client, response

    def _hold(self, client: http.client.HTTPConnection, timeout_s: float) -> None:
        found = client.sock
        assert found is not None
        found.settimeout(timeout_s)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        )  # a machine that is gone is noticed in half a minute
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        with self._lock:
            if self._cut:
                raise OSError("cut off")
            self._socket = found

    def _release(self, client: http.client.HTTPConnection) -> None:
        with self._lock:
            self._socket = None
        client.close()

    def _words(self, response: http.client.HTTPResponse, path: str) -> str:
        """What it says of an error."""
        try:
            text = self.address.hidden(response.read(1 << 16).decode(errors="replace"))
        except (OSError, http.client.HTTPException):
            text = ""
        if 300 <= response.status < 400:
            return f"{path} is elsewhere ({response.status} {response.getheader('Location') or ''}): give that address"
        if response.status in (401, 403):
            told = "refuses the key" if self.address.has_key else "asks for a key: give upstream_key"
            return f"HTTP {response.status}, it {told}: {said(text) or response.reason}"
        return f"HTTP {response.status}: {said(text) or response.reason}"


def said(found: Any) -> str:
    """The words of an error in any of the shapes that these servers have: text, or JSON as it comes or parsed."""
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return " ".join(found.split())[:MOST_OF_AN_ERROR]
    if isinstance(found, dict):
        for name in ("error", "message", "detail"):
            if found.get(name):
                return said(found[name]) if not isinstance(found[name], str) else found[name][:MOST_OF_AN_ERROR]
    return json.dumps(found)[:MOST_OF_AN_ERROR]


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
