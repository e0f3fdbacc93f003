"""What reaches the server before a request is one: headers, half-sent requests, connections, pipelines, stalls."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

import uvicorn

from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http import connections, http_protocol
from tests.server.conftest import slow_engine

pytestmark = pytest.mark.anyio
PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Peer:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(OSError):
            await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); status 0 when the connection was closed without one."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, OSError):
            return 0, {}, b""
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def closed(self) -> bool:
        """Waits until the server has closed it."""
        with contextlib.suppress(OSError):
            await self.reader.read()
        return True


class Served:
    def __init__(self, port: int, protocol: Any, app: Any) -> None:
        self.port = port
        self.connections: connections.Connections = protocol.places
        self.service = app.state.service
        self.peers: list[Peer] = []

    async def peer(self) -> Peer:
        found = Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22))
        self.peers.append(found)
        return found

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        peer = await self.peer()
        await peer.send(data)
        return await peer.answer()


@contextlib.asynccontextmanager
async def served(engine: Engine | None = None, **settings: Any) -> AsyncIterator[Served]:
    config = FastServeConfig(port=0, **settings)
    with engine or Engine.scripted(max_batch=4) as running:
        app = create_app(running, config)
        protocol = http_protocol.bounded(config)
        server = uvicorn.Server(
            uvicorn.Config(app, port=0, http=protocol, ws="none", log_config=None, timeout_graceful_shutdown=1)
        )
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        found = Served(server.servers[0].sockets[0].getsockname()[1], protocol, app)
        try:
            yield found
        finally:
            for peer in found.peers:
                peer.writer.close()
            server.should_exit = True
            await task


def post(path: str, fields: Any) -> bytes:
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def test_ordinary_requests_go_on_as_before() -> None:
    async with served() as server:
        peer = await server.peer()
        for _ in range(3):  # one connection, kept
            await peer.send(PING)
            assert (await peer.answer())[0] == 200
            await peer.send(post("/generate", {"prompt": "abc", "max_new_tokens": 3}))
            status, _, body = await peer.answer()
            assert status == 200 and json.loads(body)["tokens_generated"] == 3
        assert len(server.connections.open) == 1
    assert not server.connections.open and not server.connections.by_address


@pytest.mark.parametrize(
    "headers",
    [
        b"X: " + b"a" * 40_000 + b"\r\n\r\n",
        b"X: " + b"a" * 400_000,  # never ends
        b"X" * 400_000,
        b"".join([b"X-%d: %s\r\n" % (i, b"a" * 900) for i in range(50)]) + b"\r\n",
        b"".join([b"X-%d: a\r\n" % i for i in range(200)]) + b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"".join([b"X-%d: a\r\n" % i for i in range(200)]),
        b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 400_000,
        b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: " + b"a" * 400_000,
    ],
    ids=["long", "endless value", "endless name", "sum", "many", "many trailers", "chunk extension", "endless trailer"],
)
async def test_too_large_or_too_many_headers(headers: bytes) -> None:
    async with served() as server:
        for path, place in (("/generate", "detail"), ("/v1/completions", "error")):
            peer = await server.peer()
            await peer.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + headers)
            status, told, body = await peer.answer()
            assert status == 431, body
            assert told["connection"] == "close" and "--max-header" in str(json.loads(body)[place])
            assert await peer.closed()
        assert (await server.ask(PING))[0] == 200


async def test_trailers_are_no_headers() -> None:
    """They come behind what was looked at, so they may say nothing of who asks."""
    body = b'{"prompt": "abc", "max_new_tokens": 1}'
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    chunks = b"\r\n%x\r\n%b\r\n0\r\n" % (len(body), body)
    kind, token = b"Content-Type: application/json\r\n", b"Authorization: Bearer t\r\n"
    async with served(api_key=["t a"]) as server:
        assert (await server.ask(head + kind + token + chunks + b"X-A: b\r\n\r\n"))[0] == 200
        assert (await server.ask(head + kind + chunks + token + b"\r\n"))[0] == 401
        assert (await server.ask(head + token + chunks + kind + b"\r\n"))[0] == 422


async def test_a_long_request_line() -> None:
    async with served() as server:
        assert (await server.ask(b"GET /stream?prompt=" + b"a" * 50_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"))[
            0
        ] == 431
        assert (await server.ask(b"GET /stream?prompt=" + b"a" * 400_000))[0] == 431


async def test_limits_are_settings() -> None:
    ten = b"".join([b"X-%d: aaaa\r\n" % i for i in range(10)])
    request = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n" + ten + b"\r\n"
    async with served() as server:
        assert (await server.ask(request))[0] == 200
    async with served(max_headers=10) as server:
        assert (await server.ask(request))[0] == 431
    async with served(max_header_kib=0.1) as server:
        assert (await server.ask(request))[0] == 431
        assert (await server.ask(PING))[0] == 200


@pytest.mark.parametrize("sent", [b"GET /pi", b"GET /ping HTTP/1.1\r\nX: a", post("/generate", {"prompt": "a"})[:-1]])
async def test_a_request_that_does_not_arrive(sent: bytes) -> None:
    async with served(header_timeout=0.1, body_timeout=0.2) as server:
        peer = await server.peer()
        await peer.send(sent)
        status, headers, body = await peer.answer()
        assert status == 408 and headers["connection"] == "close" and b"did not arrive within 0." in body
        assert await peer.closed()


async def test_a_trickle_is_no_progress() -> None:
    """A byte now and then extends nothing."""
    async with served(header_timeout=0.2, body_timeout=0.2) as server:
        for start in (
            b"GET /ping HTTP/1.1\r\nX: ",
            b"POST /generate HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
        ):
            peer = await server.peer()
            await peer.send(start)
            answer = asyncio.create_task(peer.answer())
            while not answer.done():
                await peer.send(b"a")
                await asyncio.sleep(0.01)
            assert answer.result()[0] == 408


async def test_who_sends_nothing_is_closed() -> None:
    async with served(header_timeout=0.1) as server:
        peer = await server.peer()
        assert (await peer.answer())[0] == 0
        trickle = await server.peer()
        with contextlib.suppress(OSError):
            while not trickle.reader.at_eof():
                await trickle.send(b"\r\n")
                await asyncio.sleep(0.01)


async def test_a_request_that_runs_longer_than_its_arrival_may_take() -> None:
    async with served(slow_engine(), header_timeout=0.05, body_timeout=0.05) as server:
        status, _, body = await server.ask(post("/generate", {"prompt": "a", "max_new_tokens": 10}))
        assert status == 200 and json.loads(body)["tokens_generated"] == 10  # 0.2 s


async def test_connections_are_limited_and_health_is_answered() -> None:
    async with served(max_connections=5) as server:
        idle = [await server.peer() for _ in range(5)]
        for _ in range(3):
            status, _, body = await server.ask(post("/generate", {"prompt": "a"}))
            assert status == 503 and b"too many connections" in body
            for path in (b"/ping", b"/health", b"/health/ready"):
                status, headers, _ = await server.ask(PING.replace(b"/ping", path))
                assert status == 200 and headers["connection"] == "close"
        for _ in range(2 * connections.RESERVED):  # more than are reserved: the oldest ones go
            await server.peer()
        assert (await server.ask(PING))[0] == 200
        assert len(server.connections.open) == 5 and len(server.connections.reserved) <= connections.RESERVED
        idle[0].writer.close()
        while len(server.connections.open) == 5:
            await asyncio.sleep(0.01)
        assert (await server.ask(post("/generate", {"prompt": "a", "max_new_tokens": 1})))[0] == 200


async def test_connections_of_one_address_are_limited() -> None:
    async with served(max_connections_per_address=3) as server:
        for _ in range(3):
            await server.peer()
        assert (await server.ask(post("/generate", {"prompt": "a"})))[0] == 503
        assert server.connections.by_address == {"127.0.0.1": 3}


def test_descriptors(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    resource = pytest.importorskip("resource")
    limits = {"now": (1024, 1 << 20)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.update(now=new))
    assert connections.fit_descriptors(2000) == 2000
    assert limits["now"] == (2000 + connections.RESERVED + connections.OWN_FILES, 1 << 20)
    assert connections.fit_descriptors(100) == 100
    limits["now"] = (1024, 1024)
    assert connections.fit_descriptors(2000) == 1024 - connections.RESERVED - connections.OWN_FILES
    assert "room for 736 connections" in caplog.text
    for limit, fits in ((256, 160), (512, 352), (64, 1)):
        limits["now"] = (limit, limit)
        assert connections.fit_descriptors(2000) == fits


async def test_a_pipeline_is_answered_in_order_and_bounded() -> None:
    async with served() as server:
        few = await server.peer()
        await few.send(PING.replace(b"/ping", b"/version") + PING * 3)
        assert [len((await few.answer())[2]) > 0 for _ in range(4)] == [True, False, False, False]
        many = await server.peer()
        await many.send(PING * 1000)
        statuses = []
        while (status := (await many.answer())[0]) == 200:
            statuses.append(status)
        assert len(statuses) == 1 + http_protocol.MAX_PIPELINED and await many.closed()


async def test_refused_bodies_that_are_sent_on_are_not_kept() -> None:
    """An answer before the body has arrived: what comes after is thrown away, and the connection goes on."""
    async with served() as server:
        peer = await server.peer()
        size = 4 << 20
        await peer.send(f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
        assert (await peer.answer())[0] == 404
        await peer.send(b"x" * size)
        await peer.send(PING)
        assert (await peer.answer())[0] == 200


async def test_a_refused_body_that_never_ends_does_not_hold_its_connection() -> None:
    async with served(body_timeout=0.1) as server:
        peer = await server.peer()
        await peer.send(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert (await peer.answer())[0] == 404
        assert (await peer.answer())[0] == 408
        assert await peer.closed()


async def test_a_client_that_does_not_read_is_given_up() -> None:
    async with served(slow_engine(realtime=1000.0), stall_timeout=0.2) as server:
        peer = await server.peer()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        fields = {"prompt": ["a"] * 128, "max_tokens": 1900, "stream": True, "ignore_eos": True, "logprobs": 5}
        await peer.send(post("/v1/completions", fields))
        while not server.service.registry.jobs:
            await asyncio.sleep(0.01)
        while server.connections.open:
            await asyncio.sleep(0.01)
        while any(job.handle is not None for job in server.service.registry.jobs.values()):
            await asyncio.sleep(0.01)


async def test_what_is_no_http() -> None:
    async with served() as server:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
            b"hello\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
        ):
            status, _, body = await server.ask(garbage)
            assert status == 400 and json.loads(body)["detail"]
        upgrade = PING[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        assert (await server.ask(upgrade))[0] == 200
