"""Routes that go to an upstream, by model name, and how a Call is made of a request."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from hashlib import blake2b
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from fastserve.gateway.api import described
from fastserve.gateway.call import Call, leave
from fastserve.gateway.core import Core, gateway_of
from fastserve.server.api.errors import TOO_LARGE, WRONG_CONTENT_TYPE, ApiError, not_json
from fastserve.server.api.fields import MAX_NAME
from fastserve.server.api.paths import uses_openai_errors
from fastserve.server.http.body_scan import MAX_DIGITS, MAX_LITERAL, BodyLimits, Excess, Scan
from fastserve.server.http.forwarded import route_path
from fastserve.server.http.origin import by_browser, is_json

router = APIRouter(tags=["Generation"])

SHORT = 32 << 10
"""Bytes up to which a body is parsed on the event loop: well below a millisecond."""

MOST_NUMBERS = 1 << 20


async def forwarded(request: Request) -> Response:
    return await answered(request, await call_of(request))


async def forwarded_v1(request: Request) -> Response:
    """Of clients whose base URL lacks the /v1."""
    call = await call_of(request)
    call.path = f"/v1{call.path}"
    return await answered(request, call)


for path in described.ROUTES:
    router.add_api_route(path, forwarded, methods=["POST"], response_model=None, **described.of(path))
for path in ("/completions", "/chat/completions"):
    router.add_api_route(path, forwarded_v1, methods=["POST"], response_model=None, include_in_schema=False)


@router.get("/stream", response_model=None)
async def stream(request: Request) -> Response:
    """As POST, with the fields in the query."""
    gateway = gateway_of(request)
    gateway.limits.test(known_client(request) or "default")
    fields: dict[str, Any] = dict(request.query_params)
    call = made(request, gateway, b"", fields)
    call.method, call.query, call.stream = "GET", request.url.query, True
    return await answered(request, call)


async def answered(request: Request, call: Call) -> Response:
    """The answer to a call, unless its client leaves before it begins: then ClientDisconnect. Raises ApiError."""
    answering = asyncio.ensure_future(gateway_of(request).answer(call))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientDisconnect
    finally:
        leaving.cancel()
        if not answering.done():
            answering.cancel()
            await asyncio.wait((answering,))
            if not answering.cancelled() and answering.exception() is None:
                await leave(answering.result())


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def call_of(request: Request) -> Call:
    """Reads the body within bounds. Raises ApiError or ClientDisconnect."""
    gateway = gateway_of(request)
    where = route_path(request.scope)
    known = known_client(request)
    if known is not None:
        gateway.limits.test(known)
    if not is_json(request.headers.get("content-type", "")) and (where != "/stream" or by_browser(request.headers)):
        raise ApiError(400 if uses_openai_errors(where) else 422, WRONG_CONTENT_TYPE)
    body, fields = await json_of(request, gateway)
    return made(request, gateway, body, fields if isinstance(fields, dict) else None)


def known_client(request: Request) -> str | None:
    """The client behind the token; None without tokens."""
    found: str | None = request.scope["state"].get("client")
    return found


def made(request: Request, gateway: Core, body: bytes, fields: dict[str, Any] | None) -> Call:
    client = known_client(request)
    given = fields or {}
    model = given.get("model") or given.get("model_name") or ""
    if not isinstance(model, str):
        raise ApiError(400, "model must be text", param="model")
    path = route_path(request.scope)
    return Call(
        path, body, fields, request.headers, model, client or claimed(given.get("user")), client is not None,
        bool(given.get("stream")) or path in ("/generate/stream", "/v1/generate", "/stream"),
        request.scope["state"]["request_id"], time.monotonic_ns(),
    )  # fmt: skip


def claimed(user: Any) -> str:
    """The client that a request without a token says it is of. A name that is too long to be remembered is shortened:
    two of them stay two.
    """
    if not isinstance(user, str) or not user:
        return "default"
    return user if len(user) <= MAX_NAME else blake2b(user.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


async def json_of(request: Request, gateway: Core) -> tuple[bytes, Any]:
    """The body as it came, and parsed. Raises ApiError or ClientDisconnect."""
    most = gateway.max_body_bytes
    limits = BodyLimits(
        gateway.config.max_body_items, MOST_NUMBERS, MOST_NUMBERS, max(most, 1 << 16), max(most, 1 << 16)
    )
    scan = Scan(limits)
    pool = gateway.input_pool
    body = bytearray()
    held = 0
    try:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > most:
                raise ApiError(413, TOO_LARGE.format(most))
            pool.hold(len(chunk))
            held += len(chunk)
            scan.feed(chunk)
            body += chunk
            if not message.get("more_body"):
                break
        raw = bytes(body)
        parse = partial(json.loads, raw)
        return raw, parse() if len(raw) <= SHORT else await pool.run(parse)
    except Excess as excess:
        raise ApiError(400, _excess(excess, limits)) from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400 if uses_openai_errors(route_path(request.scope)) else 422, not_json(error)) from None
    finally:
        pool.let_go(held)


def _excess(excess: Excess, limits: BodyLimits) -> str:
    match excess.kind:
        case "items":
            return f"the body holds more than {limits.items:,} strings, objects and lists; see --max-body-items"
        case "depth":
            return not_json(RecursionError())
        case "digits":
            return f"the body holds a number of more than {MAX_DIGITS:,} digits; send fewer digits"
        case "literal":
            return not_json(f"a number or a word of more than {MAX_LITERAL:,} bytes")
    return f"the body holds more than {limits.numbers:,} numbers; send fewer at once"
