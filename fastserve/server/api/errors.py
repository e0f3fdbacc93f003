"""Error responses: in OpenAI's format under /v1, in Ollama's under /api, in FastAPI's elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fastserve.server.api.paths import not_allowed, not_served, uses_openai_errors
from fastserve.server.http.forwarded import route_path

TYPES: dict[int, str] = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    431: "HeadersTooLargeError",
    500: "InternalServerError",
    501: "NotImplementedError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}
"""HTTP status -> `type` of an error in OpenAI's format."""

LONGEST_WAIT_S = 60.0
"""The largest Retry-After: who is asked to wait for long does not come back."""

SPENT = (409, 500, 504)
"""Statuses of a request that was run and did not end well. OpenAI's clients send it again, as a new job, unless they
are told not to; a 429 or 503 has cost nothing, and is worth another try.
"""

MAX_FAULTS = 8
"""Validation errors of one body that are reported; a long list may have the same one for each item."""

MAX_MESSAGE = 2000
"""Characters of an error message, and of the name of a field in it."""

TOO_LARGE = "the body is larger than the limit of {:,} bytes"
UNCOMPRESSED = "send it uncompressed, without a Content-Encoding"
WRONG_CONTENT_TYPE = "the Content-Type is not JSON: send Content-Type: application/json"


class ApiError(Exception):
    """An HTTP error response. retry_after: s, for the Retry-After header."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = clipped(message)
        self.param = param
        self.retry_after = retry_after


class InvalidBody(RequestValidationError):
    """more: faults of the same kind beyond those in its list."""

    def __init__(self, faults: list[dict[str, Any]], more: int = 0) -> None:
        super().__init__(faults)
        self.more = more


class Json(Response):
    """JSON escaped to ASCII, so that any text of a client, lone surrogates included, can be sent back. It ends with a
    newline, for terminals.
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encoded(content) + b"\n"


def encoded(content: Any) -> bytes:
    """Compact JSON in ASCII."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


def clipped(text: str) -> str:
    """A text for an answer: what a client sent may be in it, and may be megabytes."""
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 4 :]}"


def openai_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """JSON body of an error in OpenAI's format."""
    return {"error": {"message": message, "type": TYPES.get(status, "Error"), "param": param, "code": status}}


def error_response(path: str, error: ApiError) -> Json:
    """The error response to a request at this path."""
    if uses_openai_errors(path):
        content: dict[str, Any] = openai_body(error.status, error.message, error.param)
    elif path.startswith("/api/"):  # Ollama's clients show what `error` says
        content = {"error": error.message}
    else:
        content = {"detail": error.message}
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(min(error.retry_after, LONGEST_WAIT_S))))
    if error.status in SPENT:
        headers["X-Should-Retry"] = "false"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Json(content, error.status, headers)


def install(app: FastAPI) -> None:
    """Exception handlers: ApiError, HTTPException and validation errors. The middleware handles any other exception.

    app.state.paths: of its routes.
    """

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(route_path(request.scope), error)

    async def http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, ApiError):  # FastAPI takes what is said of a body for one that it cannot parse
            return error_response(route_path(request.scope), error.__cause__)
        what = str(error.detail)
        if isinstance(error.__cause__, (ValueError, RecursionError)):  # FastAPI could not parse the body
            what = not_json(error.__cause__)
        method, path = request.scope["method"], route_path(request.scope)
        if what == HTTPStatus.NOT_FOUND.phrase:
            what = not_served(method, path, request.app.state.paths)
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            what = not_allowed(method, path, (error.headers or {}).get("Allow", ""))
        found = error_response(path, ApiError(error.status_code, what))
        found.headers.update(error.headers or {})
        return found

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = error.errors()
        faults = [_fault_json(fault) for fault in errors[:MAX_FAULTS]]
        if rest := len(errors) - len(faults) + getattr(error, "more", 0):
            faults.append({"loc": ["body"], "msg": f"and {rest} more of this kind", "type": "more"})
        if not uses_openai_errors(route_path(request.scope)):
            return Json({"detail": faults}, 422)
        fields = [".".join(map(str, fault["loc"][1:])) for fault in faults]
        pairs = zip(fields, faults, strict=True)
        message = "; ".join(f"{field}: {fault['msg']}" if field else fault["msg"] for field, fault in pairs)
        return Json(openai_body(400, message, fields[0] or None), 400)

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_exception)
    app.add_exception_handler(RequestValidationError, invalid)


def _fault_json(fault: Mapping[str, Any]) -> dict[str, Any]:
    """One validation error as JSON."""
    if fault["type"] == "json_invalid":
        what = f"{not_json(fault['ctx']['error'])} at character {fault['loc'][-1]}"
        return {"loc": ["body"], "msg": what, "type": "json_invalid"}
    place = [clipped(part) if isinstance(part, str) else part for part in fault["loc"]]
    return {"loc": place, "msg": clipped(fault["msg"].removeprefix("Value error, ")), "type": fault["type"]}


def not_json(error: Exception | str) -> str:
    """The error message for a body that is not JSON."""
    if isinstance(error, RecursionError):
        return "the body is not JSON that can be parsed: it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        if error.object.startswith(b"\x1f\x8b"):
            return f"the body is not JSON: it is compressed with gzip; {UNCOMPRESSED}"
        return f"the body is not JSON: it is not UTF-8 text ({error.reason} at byte {error.start})"
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return f"the body is not JSON that can be parsed: a number has too many digits ({error})"
    return f"the body is not JSON: {error}"


def error_responses(*statuses: int, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """Error responses for a route's `responses`, as FastAPI takes them."""
    schema: Mapping[str, Any] = {"$ref": "#/components/schemas/OpenAIError" if openai else "#/components/schemas/Error"}
    return {
        status: {"description": DESCRIPTIONS[status], "content": {"application/json": {"schema": schema}}}
        for status in statuses
    }


DESCRIPTIONS: dict[int, str] = {
    400: "Invalid request",
    401: "No valid token",
    403: "The token lacks a scope",
    404: "Not found",
    409: "The request was cancelled",
    413: "The request body is too large",
    415: "The request body is compressed",
    429: "Too many requests or tokens a minute; see Retry-After",
    500: "The engine failed while it ran this request",
    503: "The queue is full, the server is shutting down, or the engine has stopped; see Retry-After",
    504: "Timeout: the request took longer than the server allows",
}

SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": {"type": "string"}},
    },
    "OpenAIError": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "integer"},
                },
            }
        },
    },
}
"""Schemas that `error_responses` refers to; create_app adds them to the OpenAPI schema."""
