"""create_app: what a Gateway is made of. A part plugs in here.

PARTS has functions that make a Part of a gateway (core.Core, or gateway.Gateway), or None where its settings do
not ask for it: "package.module:function". It is imported when the gateway is made, so it may import what it needs (an
optional package: inside the function). A Part (call.Part) has

    name             of it, in GET /status and /gateway/status
    router           an APIRouter with its routes, or None; handlers find the gateway by core.gateway_of(request)
    stage            async (call, next) -> Response, or None: every generating request passes it; it may answer itself,
                     change the call (call.rewrite(model=...)), await next(call), and wrap the answer's body_iterator
    start(), stop()  awaited before the first request and after the last one
    status()         JSON of what it does now

Settings: a mixin of its own (settings.py of its package) that GatewayConfig inherits. Servers that it starts itself:
gateway.upstreams.add(url, name=..., models=(...), owner=NAME), remove(name). A route that generates in another format
makes a Call of a request (api.generate.call_of, or Call(...) itself) and awaits gateway.answer(call).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route

from fastserve.gateway.api import admin, generate, jobs, monitor
from fastserve.gateway.core import Core
from fastserve.package_version import package_version
from fastserve.server.api import errors
from fastserve.server.http.around import EXPOSED, put_around
from fastserve.server.http.static_page import add_page

PAGE = Path(__file__).parent / "page" / "files"
ABOUT = "Many servers behind one address: requests go to one that has their model, by a router."

PARTS: Final[dict[str, str]] = {
    "conversations": "fastserve.gateway.conversations.conversations:make",
    "cache": "fastserve.gateway.cache.stage:part",
    "models": "fastserve.gateway.models.api:make",
    "queue": "fastserve.gateway.job_queue:make",
    "ollama": "fastserve.gateway.ollama.part:make",
    "discovery": "fastserve.gateway.discovery.part:make",
}
"""Name -> where a function (gateway) -> Part | None is. In the order that calls pass: conversations, cache, models."""

ADDED: Final = ("X-Cache", "X-Upstream", "X-Session-Id", "X-Conversation-Turns", "X-Conversation-Cut")
"""Headers of answers that the gateway and its parts add, for pages elsewhere to read."""


def create_app(gateway: Core) -> FastAPI:
    """The app; makes the gateway's parts and stages on the way. Raises ValueError for settings that cannot be used."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    app = FastAPIOffline(title="FastServe gateway", description=ABOUT, version=package_version(), lifespan=lifespan)
    app.state.gateway = gateway
    errors.install(app)
    for where in PARTS.values():
        module, _, function = where.partition(":")
        part = getattr(import_module(module), function)(gateway)
        if part is not None:
            gateway.parts.append(part)
            if part.stage is not None:
                gateway.stages.append(part.stage)
    routers: list[APIRouter] = [part.router for part in gateway.parts if part.router is not None]
    routers += [generate.router, jobs.router, admin.router, monitor.router]  # a part's route wins over the core's
    if gateway.config.metrics:
        routers.append(monitor.metrics_router(gateway.config.metrics_endpoint))
    for router in routers:
        app.include_router(router)
    app.state.paths = [route.path for router in routers for route in router.routes if isinstance(route, Route)]
    add_page(app, PAGE)
    put_around(app, gateway, (*EXPOSED, *ADDED))
    return app
