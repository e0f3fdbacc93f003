"""Upstreams while the gateway runs: list, add, change (weight, drain), remove. Keys go in and never come out.

With tokens, only clients of --admin-clients may change them (none by default); without, everybody who reaches it may.
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.responses import Response

from fastserve.gateway.config import places
from fastserve.gateway.core import Core, gateway_of
from fastserve.gateway.upstream import Upstream
from fastserve.server.api.errors import ApiError, Json
from fastserve.server.http.auth import may_administer

router = APIRouter(prefix="/gateway", tags=["Gateway"])


class NewUpstream(BaseModel):
    """key: its bearer token; key_env: the variable of the gateway's environment that has it."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=2048)
    name: str = Field("", max_length=128)
    weight: float = 1.0
    key: SecretStr | None = None
    models: list[str] | None = Field(None, max_length=256)


class Change(BaseModel):
    """weight: > 0. drain: true: no new requests; false: it gets some again."""

    model_config = ConfigDict(extra="forbid")

    weight: float | None = None
    drain: bool | None = None


@router.get("/upstreams")
async def list_upstreams(request: Request) -> dict[str, Any]:
    now = time.monotonic_ns()
    return {"upstreams": [each.shown(now) for each in gateway_of(request).upstreams]}


@router.get("/upstreams/{name}")
async def one_upstream(request: Request, name: str) -> dict[str, Any]:
    return _found(gateway_of(request), name).shown(time.monotonic_ns())


@router.post("/upstreams", response_model=None, status_code=201)
async def add_upstream(request: Request, body: NewUpstream) -> Response:
    """It is looked at before this answers; one that is not up yet gets requests as soon as it is."""
    gateway = gateway_of(request)
    _may(request, gateway)
    try:
        if body.key is not None:
            places.key_text(body.key)
        upstream = gateway.upstreams.add(
            body.url, name=body.name, weight=body.weight, key=body.key, models=tuple(body.models or ()) or None
        )
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    await gateway.health.check(upstream)
    return Json(upstream.shown(time.monotonic_ns()), 201, {"Location": f"/gateway/upstreams/{upstream.name}"})


@router.patch("/upstreams/{name}")
async def change_upstream(request: Request, name: str, body: Change) -> dict[str, Any]:
    gateway = gateway_of(request)
    _may(request, gateway)
    upstream = _found(gateway, name)
    if body.weight is not None:
        try:
            upstream.weight = places.weight(body.weight)
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        gateway.choosing.came(upstream)
    if body.drain is not None:
        gateway.upstreams.drain(name, body.drain)
        if not body.drain:
            await gateway.health.check(upstream)
    return upstream.shown(time.monotonic_ns())


@router.delete("/upstreams/{name}")
async def remove_upstream(request: Request, name: str) -> dict[str, Any]:
    """What is on its way there goes on to its end."""
    gateway = gateway_of(request)
    _may(request, gateway)
    upstream = _found(gateway, name)
    if upstream.owner:
        raise ApiError(409, f"upstream {name!r} was started by the gateway ({upstream.owner}), which removes it itself")
    gateway.upstreams.remove(name)
    return {"removed": name}


def _found(gateway: Core, name: str) -> Upstream:
    try:
        return gateway.upstreams.find(name)
    except KeyError:
        known = ", ".join(each.name for each in gateway.upstreams) or "none"
        raise ApiError(404, f"there is no upstream {name[:128]!r}; there is {known}") from None


def _may(request: Request, gateway: Core) -> None:
    """Raises ApiError 403."""
    if not may_administer(request.scope, gateway.config.admin_clients):
        client = request.scope["state"]["client"]
        raise ApiError(403, f"client {client} may not change upstreams: --admin-clients {client} lets it")
