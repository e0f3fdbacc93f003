"""ASGI middleware: request id, body size limit, authentication, access log, and the 500 of an unhandled exception."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect

from fastserve.server.api.errors import TOO_LARGE, UNCOMPRESSED, ApiError, error_response
from fastserve.server.api.paths import clean_path
from fastserve.server.http.auth import SPOKEN
from fastserve.server.http.forwarded import route_path
from fastserve.server.http.ids import REQUEST_ID, new_id
from fastserve.server.http.origin import UNUSED_ELSEWHERE, Origins
from fastserve.server.http.served import Served

log = logging.getLogger("fastserve.access")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_CLOSED = 499
"""Status in the access log when the client disconnected before its request was complete; no response is sent."""

ENDLESS = ("/live", "/stream")
"""GET routes that stream: a HEAD of any other is answered as its GET without the body."""


POLLED = ("/load", "/gateway/status", "/models/jobs")
"""Routes that gateways and pages ask all the time: logged with --log-level debug."""


class Middleware:
    """Pure ASGI (not BaseHTTPMiddleware), so that a disconnect reaches the route."""

    def __init__(self, app: App, service: Served) -> None:
        self.app = app
        self.service = service
        self.origins = Origins(service.config, service.auth.on)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, method = clean_path(route_path(scope)), scope["method"]
        prefix = scope["path"].removesuffix(route_path(scope))
        head = method == "HEAD" and path not in ENDLESS
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else new_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["client"] = None
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                found = MutableHeaders(scope=message)
                found["X-Request-Id"] = request_id
                for name, value in UNUSED_ELSEWHERE.items():
                    found.setdefault(name, value)
            elif head:
                message["body"] = b""
            await send(message)

        try:
            length = headers.get("content-length") or "0"
            if not length.isdecimal():
                raise ApiError(400, f"Content-Length: {length!r} is not a number of bytes")
            if len(length) > 18 or int(length) > self.service.max_body_bytes:
                raise ApiError(413, TOO_LARGE.format(self.service.max_body_bytes))
            self.origins.check(headers, scope)
            encoding = headers.get("content-encoding") or "identity"
            if encoding.strip().lower() != "identity":
                raise ApiError(415, f"Content-Encoding: the body is compressed ({encoding!r}); {UNCOMPRESSED}")
            auth = self.service.auth
            if auth.on and not auth.is_open(path) and scope["method"] != "OPTIONS":
                state["client"] = await auth.client(headers.get("authorization"), headers.get(SPOKEN))
            inner = {**scope, "path": prefix + path, "method": "GET" if head else method}
            await self.app(inner, bounded(receive, self.service.max_body_bytes), send_with_id)
        except ApiError as error:
            await error_response(path, error)(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_CLOSED
        except Exception as error:
            log.error("request %s failed", request_id, exc_info=error)
            if status:  # the response has started
                raise
            failure = ApiError(500, f"request {request_id} failed inside the server; see its log")
            await error_response(path, failure)(scope, receive, send_with_id)
        finally:
            facts = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round((time.perf_counter() - started) * 1e3, 1),
                "request_id": request_id,
                "client": state["client"],
            }
            level = logging.DEBUG if path in POLLED and status == 200 else logging.INFO
            log.log(level, "%(method)s %(path)s %(status)s", facts, extra={"facts": facts})


def bounded(receive: Receive, most: int) -> Receive:
    """Raises ApiError 413 for a body of more than so many bytes, which need not say its length beforehand."""
    size = 0

    async def receive_bounded() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > most:
                raise ApiError(413, TOO_LARGE.format(most))
        return message

    return receive_bounded
