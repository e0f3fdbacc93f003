"""What is known of the gateway: health, models, load, status."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from fastserve.gateway.core import gateway_of
from fastserve.package_version import package_version
from fastserve.server.api.errors import Json

router = APIRouter(tags=["Monitoring"])


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    gateway = gateway_of(request)
    made = round(gateway.started)
    cards = [
        {"id": name, "object": "model", "created": made, "owned_by": "fastserve", "root": name, "parent": None}
        for name in gateway.upstreams.models()
    ]
    return {"object": "list", "data": cards}


@router.get("/health", response_model=None)
async def health(request: Request) -> Response:
    gateway = gateway_of(request)
    states = {each.name: each.state for each in gateway.upstreams}
    well = "healthy" in states.values()
    return Json({"status": "healthy" if well else "unhealthy", "upstreams": states}, 200 if well else 503)


@router.get("/ping")
async def ping() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": package_version()}


@router.get("/gateway/status")
async def status(request: Request) -> dict[str, Any]:
    gateway = gateway_of(request)
    return {
        "upstreams": [each.shown() for each in gateway.upstreams],
        **{part.name: part.status() for part in gateway.parts},
    }
