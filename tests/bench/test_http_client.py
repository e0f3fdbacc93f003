"""HTTP over sockets: what ends an answer, what breaks it, which connections live on."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from fastserve.bench.stub import address
from fastserve.http_client import ConnectError, HttpClient, HttpClientError

Script = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


class Kept:
    """A Receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.status, self.kind, self.body, self.times = 0, "", b"", [0]

    def head(self, status: int, content_type: str) -> None:
        self.status, self.kind = status, content_type

    def data(self, now: int, chunk: bytes) -> None:
        assert now >= self.times[-1]
        self.times.append(now)
        self.body += chunk


async def on_server(script: Script, client: Callable[[HttpClient], Awaitable[None]]) -> int:
    """Runs a client against a script of one request; returns how many connections there were."""
    connections = 0
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        number, connections = connections, connections + 1
        serving.append(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n") and await script(number, reader, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        wire = HttpClient(address(server))
        try:
            async with asyncio.timeout(20):
                await client(wire)
        finally:
            wire.close()
            await asyncio.gather(*[task for task in serving if task is not None])
    return connections


def says(*parts: bytes, lives: bool = True) -> Script:
    """Writes the parts one by one, then keeps the connection or closes it."""

    async def script(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return lives

    return script


def answered(script: Script, requests: int = 1) -> tuple[list[Kept], int]:
    kept: list[Kept] = []

    async def client(wire: HttpClient) -> None:
        for _ in range(requests):
            kept.append(Kept())
            await wire.send(REQUEST, kept[-1])

    return kept, asyncio.run(on_server(script, client))


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"


def test_a_chunked_body_cut_anywhere() -> None:
    stream = CHUNKED + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
    (kept,), _ = answered(says(*[stream[i : i + 1] for i in range(len(stream))]))
    assert (kept.status, kept.kind, kept.body) == (200, "text/event-stream", b"hello world")


def test_a_connection_is_used_again_after_a_framed_body() -> None:
    kept, connections = answered(says(LENGTH + b"abc"), requests=3)
    assert [one.body for one in kept] == [b"abc"] * 3
    assert connections == 1


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"]
)
def test_a_connection_that_closes_is_not(head: bytes) -> None:
    kept, connections = answered(says(head + b"abc", lives=False), requests=2)
    assert [one.body for one in kept] == [b"abc"] * 2
    assert connections == 2


def test_an_interim_answer_is_not_the_answer() -> None:
    (kept,), _ = answered(says(b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + b"abc"))
    assert (kept.status, kept.body) == (200, b"abc")


def test_an_empty_body() -> None:
    (kept,), _ = answered(says(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"))
    assert (kept.status, kept.body) == (503, b"")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (CHUNKED + b"5\r\nhel", "closed the connection during its response"),
        (b"", "closed the connection before its response"),
        (LENGTH + b"a", "during its response"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
    ],
)
def test_broken_answers(said: bytes, why: str) -> None:
    with pytest.raises(HttpClientError, match=why):
        answered(says(said, lives=False))


def test_nobody_listens() -> None:
    async def go() -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        url = address(server)
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectError, match="no connection to 127"):
            await HttpClient(url).send(REQUEST, Kept())

    asyncio.run(go())


def test_giving_up_closes_the_connection() -> None:
    left = []
    asked = asyncio.Event()

    async def hang(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        try:
            left.append(await reader.read())  # b"" once the client is gone
        except OSError:
            left.append(b"")  # or it says so
        return False

    async def client(wire: HttpClient) -> None:
        task = asyncio.create_task(wire.send(REQUEST, Kept()))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not left:
            await asyncio.sleep(0.001)

    asyncio.run(on_server(hang, client))
    assert left == [b""]


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a/?x=1"])
def test_addresses(url: str) -> None:
    with pytest.raises(ValueError, match="is not a server URL"):
        HttpClient(url)


def test_a_bare_host_and_a_path() -> None:
    assert (HttpClient("localhost:81").host, HttpClient("localhost:81").port) == ("localhost", 81)
    assert HttpClient("https://a/b/").prefix == "/b"
    assert HttpClient("https://a/b/").port == 443
