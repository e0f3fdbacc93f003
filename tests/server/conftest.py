"""Apps on scripted engines, spoken to without sockets."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

import httpx

from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.service import Service

Serve = Callable[..., contextlib.AbstractAsyncContextManager["Client"]]


class Client(httpx.AsyncClient):
    """service: of the app at the other end."""

    service: Service


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No settings from this machine's environment or the checkout's .env."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_MODEL", "MAX_NEW_TOKENS", "TEMPERATURE", "TOP_K", "TOP_P", "SEED", "MAX_BATCH", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(engine=None, **settings): an app with its lifespan, and a client of it."""
    engines: list[Engine] = []

    @contextlib.asynccontextmanager
    async def serve(engine: Engine | None = None, **settings: Any) -> AsyncIterator[Client]:
        if engine is None:
            engine = Engine.scripted(max_batch=4)
        engines.append(engine)
        app = create_app(engine, FastServeConfig(**settings))
        client = Client(transport=httpx.ASGITransport(app), base_url="http://test", timeout=30)
        client.service = app.state.service
        async with app.router.lifespan_context(app), client:
            yield client

    yield serve
    for engine in engines:
        engine.close()


def slow_engine(**settings: Any) -> Engine:
    """In real time: 20 ms a token, so that something can be seen, cancelled or timed out while it runs."""
    return Engine.scripted(**{"max_batch": 4, "realtime": True, **settings})
