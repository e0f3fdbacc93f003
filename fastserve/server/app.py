"""create_app: the FastAPI application of one engine. `create_app(engine)` uses the default settings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route

from fastserve.engine import Engine
from fastserve.package_version import package_version
from fastserve.server.api import compat, documentation, errors, lora, native, openai, programs
from fastserve.server.api.paths import uses_openai_errors
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http.around import put_around
from fastserve.server.http.static_page import add_page
from fastserve.server.jobs.store import Store
from fastserve.server.service import Service
from fastserve.server.telemetry import monitor

log = logging.getLogger("fastserve.server")

ABOUT = """One preemptive engine with three groups of routes: OpenAI's, our own, and aliases that other servers use."""

PAGE = Path(__file__).parent / "page"
"""The dashboard."""


def create_app(engine: Engine, config: FastServeConfig | None = None, store: Store | None = None) -> FastAPI:
    """The app. The caller closes the engine. Without a state_dir in the settings, durable jobs are kept in memory only.

    store: of durable jobs, where the caller has opened it already; the app closes it.

    Raises ValueError for files and folders in the settings that cannot be used, MissingPackageError.
    """
    config = config or FastServeConfig()
    service = Service(engine, config, store)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        resumed = service.resume()
        if resumed:
            log.info("%d durable jobs of an earlier run were resumed", resumed)
        if service.job_queue is not None:
            await service.job_queue.check()
        try:
            yield
        finally:
            await service.close()

    app = FastAPIOffline(
        title="FastServe testbed",
        description=ABOUT,
        version=package_version(),
        lifespan=lifespan,
    )
    app.state.service = service
    errors.install(app)
    routers = [openai.router, native.router, programs.router, lora.router, compat.router, monitor.router]
    if config.metrics:
        at = config.metrics_endpoint
        if any(isinstance(route, Route) and route.path == at for router in routers for route in router.routes):
            raise ValueError(f"metrics_endpoint={at}: another route has this path; give one of its own, as /metrics")
        routers.append(monitor.metrics_router(config.metrics_endpoint))
    for router in routers:
        app.include_router(router)
    app.state.paths = [route.path for router in routers for route in router.routes if isinstance(route, Route)]
    _describe(app)
    add_page(app, PAGE)
    put_around(app, service)
    return app


def _describe(app: FastAPI) -> None:
    """Corrects the OpenAPI schema: adds error bodies and what /docs says, drops FastAPI's 422 from OpenAI's routes.

    Streams are described by the schema of one event (itemSchema), not as a string.
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(errors.SCHEMAS)
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    if uses_openai_errors(path):
                        operation["responses"].pop("422", None)
                    for response in operation["responses"].values():
                        response.get("content", {}).get("text/event-stream", {}).pop("schema", None)
            documentation.describe(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
