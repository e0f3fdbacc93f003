"""put_around: the middleware of our servers around an app: Forwarded, then CORS where it is on, then Middleware."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from fastserve.server.http.forwarded import Forwarded
from fastserve.server.http.middleware import Middleware
from fastserve.server.http.served import Served

UNLISTED = ("/page", "/docs", "/redoc", "/openapi.json", "/static-offline-docs")
"""Paths that the OpenAPI schema does not have."""

EXPOSED = ("X-Request-Id", "Location", "Retry-After")
"""Headers of answers that a page elsewhere may read."""


def put_around(app: FastAPI, served: Served, exposed: tuple[str, ...] = EXPOSED) -> None:
    """To be called when the app has its routes. exposed: headers that pages elsewhere may read."""
    config = served.config
    app.add_middleware(Middleware, service=served)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=list(exposed),
        )
    app.add_middleware(
        Forwarded,
        root_path=config.root_path,
        trusted=config.forwarded_allow_ips,
        routes=lambda: (*app.openapi()["paths"], *UNLISTED),
    )
