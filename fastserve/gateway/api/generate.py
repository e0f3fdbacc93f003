"""Routes that go to an upstream, by model name."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from fastserve.gateway.call import Call
from fastserve.gateway.core import gateway_of
from fastserve.server.api.errors import TOO_LARGE, ApiError, not_json
from fastserve.server.http.forwarded import route_path

router = APIRouter(tags=["Generation"])

PATHS = (
    "/v1/chat/completions", "/v1/completions", "/generate", "/generate/stream", "/chat", "/v1/generate",
    "/v1/generate_nobatch", "/stream", "/tokenize", "/detokenize",
)  # fmt: skip


async def forwarded(request: Request) -> Response:
    gateway = gateway_of(request)
    call = await call_of(request)
    return await gateway.answer(call)


for path in PATHS:
    router.add_api_route(path, forwarded, methods=["POST"], response_model=None)


async def call_of(request: Request) -> Call:
    """Reads the body within bounds. Raises ApiError or ClientDisconnect."""
    gateway = gateway_of(request)
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > gateway.max_body_bytes:
            raise ApiError(413, TOO_LARGE.format(gateway.max_body_bytes))
        if not message.get("more_body"):
            break
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, not_json(error)) from None
    state = request.scope["state"]
    known = fields if isinstance(fields, dict) else {}
    client: Any = state.get("client")
    return Call(
        route_path(request.scope), bytes(body), fields if isinstance(fields, dict) else None, request.headers,
        str(known.get("model") or ""), client or str(known.get("user") or "default"), client is not None,
        bool(known.get("stream")), state["request_id"], time.monotonic_ns(),
    )  # fmt: skip
