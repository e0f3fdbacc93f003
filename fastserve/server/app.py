"""create_app: the engine behind HTTP. `create_app(engine)` works as it is; the settings' defaults then hold."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from fastserve.engine import Engine
from fastserve.server.api import compat, errors, native, openai
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.middleware import Middleware
from fastserve.server.service import Service
from fastserve.server.static_page import add_page
from fastserve.server.telemetry import monitor

log = logging.getLogger("fastserve.server")

ABOUT = (
    """One preemptive engine behind three families of routes: OpenAI's, our own, and names that other servers use."""
)


def create_app(engine: Engine, config: FastServeConfig | None = None) -> FastAPI:
    """The app; the engine stays its caller's to close. Without a state_dir in the settings, jobs live in memory only.

    Raises ValueError for files and folders of the settings that cannot be used.
    """
    config = config or FastServeConfig()
    service = Service(engine, config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        again = service.resume()
        if again:
            log.info("%d jobs of an earlier run go on", again)
        try:
            yield
        finally:
            await service.close()

    app = FastAPIOffline(
        title="FastServe testbed",
        description=ABOUT,
        version=version("fastserve-testbed"),
        lifespan=lifespan,
        strict_content_type=False,
    )
    app.state.service = service
    errors.install(app)
    for router in (openai.router, native.router, compat.router, monitor.router):
        app.include_router(router)
    if config.metrics:
        app.include_router(monitor.metrics_router(config.metrics_endpoint))
    _describe(app)
    add_page(app)
    app.add_middleware(Middleware, service=service)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Location", "Retry-After"],
        )
    return app


def _describe(app: FastAPI) -> None:
    """The schema with the error bodies, without what FastAPI assumes: its 422 for OpenAI's routes, strings as events.

    Streams are described event by event (itemSchema).
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(errors.SCHEMAS)
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    if errors.speaks_openai(path):
                        operation["responses"].pop("422", None)
                    for response in operation["responses"].values():
                        response.get("content", {}).get("text/event-stream", {}).pop("schema", None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
