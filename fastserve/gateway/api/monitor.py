"""What is known of the gateway: health, models, load, metrics, status. Not of clients."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from fastserve.gateway import capable
from fastserve.gateway.asking import AnswerError
from fastserve.gateway.core import Core, gateway_of
from fastserve.gateway.upstream import Upstream
from fastserve.http_client import HttpClientError
from fastserve.package_version import package_version
from fastserve.server.api.errors import ApiError, Json

router = APIRouter(tags=["Monitoring"])


def cards_of(gateway: Core) -> list[dict[str, Any]]:
    """The models, as OpenAI lists them, with what their upstreams say of them."""
    made = round(gateway.started)
    return [
        {"id": name, "object": "model", "created": made, "owned_by": owner(upstreams), **told(name, upstreams)}
        for name, upstreams in gateway.upstreams.models().items()
    ]


def told(name: str, upstreams: list[Upstream]) -> dict[str, Any]:
    """root and parent as the first upstream says them; max_model_len, if known: what fits wherever it goes."""
    cards = [each.cards[name] for each in upstreams if name in each.cards]
    lengths = [card["max_model_len"] for card in cards if "max_model_len" in card]
    found = {"root": name, "parent": None} | (cards[0] if cards else {})
    return found | ({"max_model_len": min(lengths)} if lengths else {})


def owner(upstreams: list[Upstream]) -> str:
    """The kind of all of them. Of several kinds: "several", so that nobody takes them for servers of ours."""
    kinds = {each.kind for each in upstreams}
    if len(kinds) > 1:
        return "several"
    return (kinds.pop() if kinds else "") or "fastserve"


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    return {"object": "list", "data": cards_of(gateway_of(request))}


@router.get("/v1/models/{name:path}")
async def one_model(request: Request, name: str) -> dict[str, Any]:
    for card in cards_of(gateway_of(request)):
        if card["id"] == name:
            return card
    raise _not_served(name)


@router.get("/models")
async def native_models(request: Request) -> dict[str, Any]:
    gateway = gateway_of(request)
    entries = [
        {
            "name": name,
            "type": "causal-lm",
            "parameters": None,
            "context_length": told(name, upstreams).get("max_model_len"),
            "loaded": any(each.state == "healthy" for each in upstreams),
            "backend": owner(upstreams),
            "replicas": len(upstreams),
        }
        for name, upstreams in gateway.upstreams.models().items()
    ]
    return {
        "object": "list", "data": cards_of(gateway), "models": entries, "default_model": gateway.default_model or None
    }  # fmt: skip


@router.get("/model")
async def about_model(request: Request, model: str = "") -> dict[str, Any]:
    """What a server of ours says of its model: vocabulary, ends, device, batch. model: by default the first one."""
    gateway = gateway_of(request)
    name = model or gateway.default_model
    for upstream in gateway.upstreams.serving(name):
        if capable.has(upstream, "/model"):
            with contextlib.suppress(AnswerError, HttpClientError, TimeoutError):
                async with asyncio.timeout(gateway.config.health_timeout):
                    found = await gateway.asking.json(upstream, "/model")
                if isinstance(found, dict):
                    return found
    if not gateway.upstreams.having(name):
        raise _not_served(name)
    raise capable.lacking(gateway.upstreams, name, "/model")


@router.get("/health", response_model=None)
async def health(request: Request) -> Response:
    """Healthy while any upstream is."""
    gateway = gateway_of(request)
    states = {each.name: each.state for each in gateway.upstreams}
    well = "healthy" in states.values() or not states
    found = {
        "status": "healthy" if well else "unhealthy",
        "is_ready": well and not gateway.draining,
        "upstreams": states,
    }
    return Json(found, 200 if well else 503)


@router.get("/health/ready", response_model=None)
async def health_ready(request: Request) -> Response:
    gateway = gateway_of(request)
    well = any(each.state == "healthy" for each in gateway.upstreams) or not len(gateway.upstreams)
    reason = "it shuts down" if gateway.draining else "" if well else "no upstream is healthy"
    return Json({"ready": not reason, "reason": reason}, 503 if reason else 200)


@router.get("/health_check")
async def health_check() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ping", response_model=None)
async def ping() -> Response:
    return Response()


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": package_version()}


@router.get("/load")
async def load(request: Request) -> dict[str, Any]:
    """Of all upstreams together, as a server tells it of itself: gateways may stand behind gateways."""
    gateway = gateway_of(request)
    now = time.monotonic_ns()
    views = [each.view(now) for each in gateway.upstreams if each.state == "healthy"]

    def total(name: str) -> int | None:
        values = [getattr(view, name) for view in views]
        return sum(values) if values and all(value is not None for value in values) else None

    return {
        "server_load": gateway.load,
        "waiting": total("waiting") or 0,
        "running": total("running") or 0,
        "slots": total("slots"),
        "queued_tokens": total("queued_tokens") or 0,
        "expected_tokens": total("expected_tokens") or 0,
        "free_tokens": total("free_tokens"),
        "pool_tokens": total("pool_tokens"),
        "cached_tokens": total("cached_tokens") or 0,
        "draining": gateway.draining,
    }


@router.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    gateway = gateway_of(request)
    upstreams = list(gateway.upstreams)
    requests = sum(each.counts.requests for each in upstreams)
    tokens = sum(each.counts.tokens for each in upstreams)
    return {
        "is_loaded": bool(gateway.upstreams.models()),
        "is_ready": gateway.ready and not gateway.draining,
        "backend_type": "gateway",
        "request_count": requests,
        "total_tokens_generated": tokens,
        "avg_tokens_per_request": tokens / requests if requests else 0.0,
        "uptime": time.time() - gateway.started,
        "in_flight": gateway.load,
        "upstreams": len(upstreams),
    }


@router.get("/status")
@router.get("/gateway/status")
async def status(request: Request) -> dict[str, Any]:
    """What the gateway, its upstreams and its parts do now."""
    gateway = gateway_of(request)
    gateway.views.seen()  # who looks wants to see loads of now, requests or none
    now = time.monotonic_ns()
    return {
        "router": gateway.config.router,
        "uptime": round(time.time() - gateway.started, 3),
        "in_flight": gateway.load,
        "draining": gateway.draining,
        "upstreams": [each.shown(now) for each in gateway.upstreams],
        "recent": gateway.choosing.shown(request.scope["state"].get("client")),
        **{part.name: part.status() for part in gateway.parts},
    }


async def metrics(request: Request) -> Response:
    """Prometheus exposition format."""
    text = await asyncio.to_thread(gateway_of(request).telemetry.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def metrics_router(path: str) -> APIRouter:
    """Router of the metrics endpoint at `path`."""
    found = APIRouter(tags=["Monitoring"])
    found.add_api_route(path, metrics, methods=["GET"], response_model=None)
    found.add_api_route(path, metrics, methods=["HEAD"], response_model=None, include_in_schema=False)
    return found


def _not_served(name: str) -> ApiError:
    return ApiError(404, f"the model {name!r} is not served here", param="model")
