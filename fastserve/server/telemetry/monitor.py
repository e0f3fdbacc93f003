"""Read-only routes: health, readiness, models, stats, metrics, live stream."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from fastserve.server.api.dependencies import service_of
from fastserve.server.api.errors import Json, error_responses
from fastserve.server.api.native_schema import Health, ModelList, Ready
from fastserve.server.api.openai import model_cards
from fastserve.server.api.streaming import EVENTS, EventStream
from fastserve.server.telemetry import stats
from fastserve.server.telemetry.live import Viewer

router = APIRouter(tags=["Monitoring"])


@router.get("/health", responses={503: {"model": Health, "description": "The engine has stopped"}})
async def health(request: Request) -> Health:
    found = stats.health(service_of(request))
    return found if found["status"] == "healthy" else Json(found, 503)  # type: ignore[return-value]


@router.get("/health/ready", responses={503: {"model": Ready, "description": "New requests are not accepted"}})
async def health_ready(request: Request) -> Ready:
    is_ready, reason = stats.ready(service_of(request))
    found: Ready = {"ready": is_ready, "reason": reason}
    return found if is_ready else Json(found, 503)  # type: ignore[return-value]


@router.get("/models", responses=error_responses(401))
async def models(request: Request) -> ModelList:
    service = service_of(request)
    engine = service.engine
    entry: Any = {
        "name": service.model,
        "type": "causal-lm",
        "parameters": engine.info.parameters,
        "context_length": engine.max_model_len,
        "loaded": True,
        "backend": engine.info.backend,
    }
    adapters = [{**entry, "name": name, "type": "lora"} for name in service.adapters.loaded]
    cards = {"object": "list", "data": model_cards(service)}
    return {**cards, "models": [entry, *adapters], "default_model": service.model}  # type: ignore[typeddict-item]


@router.get("/stats", responses=error_responses(401))
async def stats_(request: Request) -> stats.Stats:
    return stats.stats(service_of(request))


@router.get("/stats/detailed", responses=error_responses(401))
async def stats_detailed(request: Request) -> stats.Detailed:
    return await stats.detailed(service_of(request))


@router.get(
    "/live",
    response_model=None,
    status_code=200,
    response_class=EventStream,
    responses={200: {"content": EVENTS}, **error_responses(401)},
)
async def live(request: Request) -> Response:
    """SSE stream for the dashboard: a snapshot, then scheduler events. It does not end."""
    service = service_of(request)
    viewer = Viewer(service.broadcaster, request.scope["state"].get("client"))
    return EventStream(viewer.chunks(), viewer.disconnect)


async def metrics(request: Request) -> Response:
    """Prometheus exposition format."""
    text = await asyncio.to_thread(service_of(request).metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {CONTENT_TYPE_LATEST.partition(";")[0]: {"schema": {"type": "string"}}}},
    **error_responses(401),
}


def metrics_router(path: str) -> APIRouter:
    """Router of the metrics endpoint at `path`."""
    found = APIRouter(tags=["Monitoring"])
    found.add_api_route(
        path, metrics, methods=["GET"], response_model=None, response_class=PlainTextResponse, responses=METRICS
    )
    found.add_api_route(path, metrics, methods=["HEAD"], response_model=None, include_in_schema=False)
    return found
