"""A gateway in this process before stubs of servers, spoken to without a socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from fastserve.bench.stub import Behaviour, Stub, address
from fastserve.engine import Engine
from fastserve.gateway import Gateway
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig

PATIENCE = 60.0
Answers = Callable[[int, dict[str, Any]], Behaviour]


def plainly(number: int, body: dict[str, Any]) -> Behaviour:
    return Behaviour()


@contextlib.asynccontextmanager
async def client_of(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """With the gateway's life around it."""
    transport = httpx.ASGITransport(gateway.app)
    async with (
        gateway.app.router.lifespan_context(gateway.app),
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def before_stub(answer: Answers = plainly, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Stub]]:
    """A client of a gateway with one upstream, which has the model `stub`; and that upstream."""
    stub = Stub(answer)
    async with await stub.start() as server:
        gateway = Gateway(upstream=[address(server)], port=0, **settings)
        async with client_of(gateway) as client:
            yield client, stub


@contextlib.contextmanager
def on_socket(app: FastAPI, port: int = 0) -> Iterator[str]:
    """The app on a thread of its own; where it is."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(
        app, log_level="warning", ws="none", timeout_graceful_shutdown=1, lifespan="on", proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < until and thread.is_alive(), "the server never started"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextlib.contextmanager
def scripted(port: int = 0, model: str = "scripted", **engine: Any) -> Iterator[str]:
    """Our own server, on a scripted engine. model: its name."""
    made = Engine.scripted(**{"max_batch": 8, **engine})
    try:
        with on_socket(create_app(made, FastServeConfig(served_model_name=model)), port) as url:
            yield url
    finally:
        made.close()


@contextlib.contextmanager
def stub_of(stub: Stub) -> Iterator[str]:
    """The stub on a thread of its own; where it is."""
    ended, started = asyncio.Event(), threading.Event()
    found: list[Any] = []

    async def run() -> None:
        async with await stub.start() as server:
            found.extend((address(server), asyncio.get_running_loop()))
            started.set()
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield found[0]
    finally:
        found[1].call_soon_threadsafe(ended.set)
        thread.join(PATIENCE)
