"""Refusals and failures as clients see them: OpenAI's shape under /v1, FastAPI's elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

TYPES: dict[int, str] = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}
"""HTTP status -> `type` of an error in OpenAI's shape."""

MOST_FAULTS = 8
"""Faults of one body that are told: a list may hold a million of the same."""


NOT_SAID = "the body is not said to be JSON: send Content-Type: application/json"


class ApiError(Exception):
    """Ends the request that is being handled. retry_after: s, for the header of that name."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.retry_after = retry_after


class Json(Response):
    """JSON in ASCII, so that whatever a client sent, lone surrogates included, can be sent back; with a line's end, for
    those who read it in a terminal.
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def openai_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error in OpenAI's shape."""
    return {"error": {"message": message, "type": TYPES.get(status, "Error"), "param": param, "code": status}}


def answer(path: str, error: ApiError) -> Json:
    """The answer to a request at this path."""
    if speaks_openai(path):
        content: dict[str, Any] = openai_body(error.status, error.message, error.param)
    else:
        content = {"detail": error.message}
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Json(content, error.status, headers)


def speaks_openai(path: str) -> bool:
    """Whether clients of this path read errors in OpenAI's shape."""
    return path.startswith("/v1/") and not path.startswith("/v1/generate")


def install(app: FastAPI) -> None:
    """Refusals that a route lets out become answers. What is no refusal is a failure: see manners."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return answer(request.url.path, error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = str(error.detail)
        if isinstance(error.__cause__, (ValueError, RecursionError)):  # FastAPI could not parse the body
            what = not_json(error.__cause__)
        found = answer(request.url.path, ApiError(error.status_code, what))
        found.headers.update(error.headers or {})
        return found

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = error.errors()
        faults = [_told(fault) for fault in errors[:MOST_FAULTS]]
        if isinstance(error.body, bytes):  # FastAPI leaves a body alone that is not said to be JSON
            unread = {"loc": ["body"], "msg": NOT_SAID, "type": "content_type"}
            faults = [unread if fault["loc"] == ["body"] else fault for fault in faults]
        if rest := len(errors) - len(faults):
            faults.append({"loc": ["body"], "msg": f"and {rest} more of this kind", "type": "more"})
        if not speaks_openai(request.url.path):
            return Json({"detail": faults}, 422)
        fields = [".".join(map(str, fault["loc"][1:])) for fault in faults]
        told = zip(fields, faults, strict=True)
        message = "; ".join(f"{field}: {fault['msg']}" if field else fault["msg"] for field, fault in told)
        return Json(openai_body(400, message, fields[0] or None), 400)

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _told(fault: Mapping[str, Any]) -> dict[str, Any]:
    """A fault as clients read it."""
    if fault["type"] == "json_invalid":
        what = f"{not_json(fault['ctx']['error'])} at character {fault['loc'][-1]}"
        return {"loc": ["body"], "msg": what, "type": "json_invalid"}
    return {"loc": list(fault["loc"]), "msg": fault["msg"].removeprefix("Value error, "), "type": fault["type"]}


def not_json(error: Exception | str) -> str:
    """Why a body could not be read."""
    if isinstance(error, RecursionError):
        return "the body is not JSON that can be read: it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not JSON: it is not UTF-8 text ({error.reason} at byte {error.start})"
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return f"the body is not JSON that can be read: a number has too many digits ({error})"
    return f"the body is not JSON: {error}"


def declared(*statuses: int, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """Error answers for a route's `responses`."""
    schema: Mapping[str, Any] = {"$ref": "#/components/schemas/OpenAIError" if openai else "#/components/schemas/Error"}
    return {
        status: {"description": DESCRIPTIONS[status], "content": {"application/json": {"schema": schema}}}
        for status in statuses
    }


DESCRIPTIONS: dict[int, str] = {
    400: "The request cannot be served as it is",
    401: "No valid token",
    403: "The token lacks a scope",
    404: "Not found",
    409: "Somebody else cancelled it",
    413: "The body is too large",
    429: "Too many requests or tokens a minute; see Retry-After",
    500: "The engine failed at this request",
    503: "Busy, draining or dead; see Retry-After",
    504: "It took longer than the server allows",
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
"""What `declared` refers to; put into the schema by the app."""
