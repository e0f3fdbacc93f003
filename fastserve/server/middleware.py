"""What every request meets around its route: a name, the question who asks, a log line, and an answer if it fails."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fastserve.server.api.errors import ApiError, answer
from fastserve.server.jobs.jobs import new_id
from fastserve.server.service import Service

log = logging.getLogger("fastserve.access")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NAME = re.compile(r"[\x21-\x7e]{1,128}")
"""What an X-Request-Id may be; anything else is replaced."""


LEFT = 499
"""What the log says of a client that left before its request was whole; nobody is answered."""

TOO_LARGE = "the body is larger than the {:,} bytes that this server takes"


class Middleware:
    """Plain ASGI, so that a disconnect reaches the route."""

    def __init__(self, app: App, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        name = given if NAME.fullmatch(given) else new_id()
        state = scope.setdefault("state", {})
        state["request_id"] = name
        state["client"] = None
        began = time.perf_counter()
        status = 0

        async def named(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = name
            await send(message)

        most = round(self.service.config.max_body_mib * (1 << 20))
        read = 0

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, TOO_LARGE.format(most))
            return message

        try:
            length = headers.get("content-length") or "0"
            if not length.isdecimal():
                raise ApiError(400, f"Content-Length: {length!r} is no number of bytes")
            if int(length) > most:
                raise ApiError(413, TOO_LARGE.format(most))
            auth = self.service.auth
            if auth.on and not auth.is_open(scope["path"]) and scope["method"] != "OPTIONS":
                state["client"] = await auth.client(headers.get("authorization"))
            await self.app(scope, bounded, named)
        except ApiError as error:
            await answer(scope["path"], error)(scope, receive, named)
        except ClientDisconnect:
            status = LEFT
        except Exception as error:
            log.error("request %s failed", name, exc_info=error)
            if status:  # too late to say so
                raise
            failure = ApiError(500, f"request {name} failed inside the server; see its log")
            await answer(scope["path"], failure)(scope, receive, named)
        finally:
            facts = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round((time.perf_counter() - began) * 1e3, 1),
                "request_id": name,
                "client": state["client"],
            }
            log.info("%(method)s %(path)s %(status)s", facts, extra={"facts": facts})
