"""A gateway in this process before stubs of servers, spoken to without a socket of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from fastserve.bench.stub import Behaviour, Stub, address
from fastserve.gateway import Gateway

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
