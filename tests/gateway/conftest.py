"""Gateways on real sockets of this process, in front of scripted servers of this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("stamina", reason="needs the gateway extra")

import httpx
import uvicorn

from fastserve.bench.stub import Behaviour, Stub, address
from fastserve.gateway import Gateway
from fastserve.server.http.http_protocol import bounded

CHAT = {"model": "stub", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
PROMPT = {"model": "stub", "prompt": "Hi", "max_tokens": 4}
FAST: dict[str, Any] = {
    "health_interval": 0.2, "cooldown": 0.05, "cooldown_most": 0.2, "view_interval": 0.05, "health_timeout": 2.0
}  # fmt: skip
"""Settings that let a test wait less."""


PLAIN = Behaviour()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No settings from this machine's environment or the checkout's .env."""
    monkeypatch.chdir(tmp_path)


class Live:
    """gateway: at port. client: of it."""

    def __init__(self, gateway: Gateway, port: int, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.port = port
        self.client = client

    async def post(self, path: str, fields: Any = None, **options: Any) -> httpx.Response:
        return await self.client.post(path, json=PROMPT if fields is None else fields, **options)

    async def until(self, what: Callable[[], bool], seconds: float = 10.0) -> None:
        """Waits until it is so."""
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def live(*upstreams: str, make: Callable[[Gateway], None] | None = None, **settings: Any) -> AsyncIterator[Live]:
    """make: does something to the gateway before it starts."""
    gateway = Gateway(upstream=upstreams, port=0, **{**FAST, **settings})
    if make is not None:
        make(gateway)
    server = uvicorn.Server(
        uvicorn.Config(
            gateway.app, port=0, http=bounded(gateway.config), ws="none", log_config=None, proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, server, "capture_signals", server.capture_signals)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        task = asyncio.create_task(server.serve())
        while not server.started:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            try:
                yield Live(gateway, port, client)
            finally:
                server.should_exit = True
                await task


@contextlib.asynccontextmanager
async def stub(behaviour: Behaviour | Callable[[int, Any], Behaviour] = PLAIN, **settings: Any) -> AsyncIterator[Any]:
    """(url, Stub) of a server that behaves so."""
    how = behaviour if callable(behaviour) else lambda number, body: behaviour
    made = Stub(how, **settings)
    server = await made.start()
    try:
        yield address(server), made
    finally:
        server.close()


Script = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    raw: bytes


@dataclass
class Odd:
    """A server whose POSTs a script answers, byte by byte; it lists a model and is well."""

    script: Script
    model: str = "stub"
    owned_by: str = "somebody"
    well: bool = True
    seen: list[Request] = field(default_factory=list)
    left: int = 0
    gets: dict[str, Any] = field(default_factory=dict)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                raw = await reader.readuntil(b"\r\n\r\n")
                first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
                method, path, _ = first.split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, path, headers, body, raw)
                if method == "GET":
                    self._look(path, writer)
                else:
                    self.seen.append(request)
                    await self.script(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            self.left += 1
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    def _look(self, path: str, writer: asyncio.StreamWriter) -> None:
        card = {"id": self.model, "object": "model", "owned_by": self.owned_by}
        known = {"/v1/models": {"object": "list", "data": [card]}, "/health/ready": {"ready": True}, **self.gets}
        status = 503 if not self.well else 200 if path in known else 404
        reply(writer, status, json.dumps(known.get(path, {})).encode())


def reply(writer: asyncio.StreamWriter, status: int, body: bytes = b"{}", *headers: bytes) -> None:
    """A whole answer."""
    lines = b"".join([line + b"\r\n" for line in (b"content-type: application/json", *headers)])
    writer.write(b"HTTP/1.1 %d Status\r\n%bcontent-length: %d\r\n\r\n%b" % (status, lines, len(body), body))


@contextlib.asynccontextmanager
async def odd(script: Script, **settings: Any) -> AsyncIterator[Odd]:
    made = Odd(script, **settings)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await made.serve(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24)
    made.url = address(server)
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
