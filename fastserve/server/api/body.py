"""Request bodies: read within bounds, scanned while they arrive, parsed off the event loop when they are long.

A route with a body is a BodyRoute: FastAPI gets the validated model instead of bytes. In this order: authentication
(the middleware), whether the server takes requests and what the client's rate limits say, size and counts, JSON, model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from json import JSONDecodeError, loads
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from fastserve.server.api.dependencies import client_of, service_of
from fastserve.server.api.errors import TOO_LARGE, WRONG_CONTENT_TYPE, ApiError, InvalidBody, not_json
from fastserve.server.api.fields import few_unknown
from fastserve.server.api.openai_schema import MAX_CHOICES, DetokenizeRequest, TokenizeRequest
from fastserve.server.api.unknown_fields import explained
from fastserve.server.http.body_scan import MAX_DIGITS, MAX_LITERAL, BodyLimits, Excess, Scan
from fastserve.server.http.forwarded import route_path
from fastserve.server.http.origin import is_json
from fastserve.server.service import Service

Model = TypeVar("Model", bound=BaseModel)
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

SHORT = 32 << 10
"""Bytes up to which a body is parsed on the event loop: well below a millisecond."""

LONG = 1 << 16
"""Bytes from which a body is asked before it is parsed whether its texts are too long, so that it does not double."""

ROOM = 1 << 16
"""Characters and numbers that any body may have, however short the model's context."""

MOST_NUMBERS = 1 << 20
"""Of a batch of prompts: parsing and validating so many take 0.1 s of a thread."""

STARTS_NOTHING = (TokenizeRequest, DetokenizeRequest)
"""Bodies that are read while the server takes no requests, whatever a client has used up."""


class BodyRoute(APIRoute):
    """Reads, parses and validates the body of a route whose one body parameter is a pydantic model."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        model = self.body_field.field_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)

        async def handle_parsed(request: Request) -> Response:
            if not is_json(request.headers.get("content-type", "")):
                raise _invalid({"loc": (), "msg": WRONG_CONTENT_TYPE, "type": "content_type"})
            return await handle(_Parsed(request, await read(request, model)))

        return handle_parsed


class _Parsed(Request):
    """A request whose body was read: FastAPI takes the model for parsed JSON, and need not validate it again."""

    def __init__(self, request: Request, body: BaseModel | None) -> None:
        super().__init__(request.scope, request.receive)
        self.model = body

    async def body(self) -> bytes:
        return b"" if self.model is None else b"{}"

    async def json(self) -> Any:
        return self.model


async def read(request: Request, model: type[Model]) -> Model | None:
    """The validated body; None for an empty one. Raises ApiError, RequestValidationError or ClientDisconnect."""
    service = service_of(request)
    ask = None if issubclass(model, STARTS_NOTHING) else service.check_open
    known = request.scope["state"].get("client")
    if ask:
        ask(known)
    size = 0
    body = bytearray()
    pool = service.input_pool
    try:
        async for chunk in _chunks(request, service):
            pool.hold(len(chunk))
            size += len(chunk)
            body += chunk
        if not body:
            return None
        parse = partial(parsed, body, model)
        if size > LONG:
            await pool.run(partial(service.tokenization.check_texts, body, is_batch(request)))
        found = parse() if size <= SHORT else await pool.run(parse)
    finally:
        pool.let_go(size)
    if ask and known is None:
        ask(client_of(request, getattr(found, "user", None)))
    return found


async def _chunks(request: Request, service: Service) -> AsyncIterator[bytes]:
    """The body as it arrives, as long as it is within its limits. Raises ApiError 400 or 413."""
    most = service.max_body_bytes
    limits = limits_of(service, is_batch(request))
    scan = Scan(limits)
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise ApiError(413, TOO_LARGE.format(most))
        try:
            scan.feed(chunk)
        except Excess as excess:
            raise _refusal(service, excess, limits) from None
        yield chunk
        if not message.get("more_body"):
            return


def is_batch(request: Request) -> bool:
    """Whether the body may have several prompts."""
    return route_path(request.scope).removeprefix("/v1") == "/completions"


def limits_of(service: Service, batch: bool) -> BodyLimits:
    """What a body may hold: what the context of the model has room for, and some more."""
    items = service.config.max_body_items
    prompts = MAX_CHOICES if batch else 1
    context = service.engine.max_model_len
    longest = max(context, ROOM)
    text = max(service.tokenization.most_characters, ROOM)
    numbers = max(min(longest * prompts, MOST_NUMBERS), longest + ROOM)
    return BodyLimits(items, numbers, longest, text, text * prompts + ROOM)


def _refusal(service: Service, excess: Excess, limits: BodyLimits) -> ApiError:
    match excess.kind:
        case "items":
            what = f"the body holds more than {limits.items:,} strings, objects and lists; see --max-body-items"
        case "numbers":
            what = f"the body holds more than {limits.numbers:,} numbers; send fewer prompts at once"
        case "run":
            return service.tokenization.uncounted(f"a list of more than {limits.run:,} values")
        case "string":
            return service.tokenization.uncounted(f"a text of more than {limits.string:,} characters")
        case "text":
            return service.tokenization.uncounted(f"texts of more than {limits.text:,} characters")
        case "depth":
            what = not_json(RecursionError())
        case "digits":
            what = f"the body holds a number of more than {MAX_DIGITS:,} digits; send fewer digits"
        case _:
            what = not_json(f"a number or a word of more than {MAX_LITERAL:,} bytes")
    return ApiError(400, what)


def parsed(body: bytearray, model: type[Model]) -> Model:
    """The model of this JSON. Empties `body` on the way: its text and values are enough to hold."""
    try:
        text = body.decode("utf-8", "surrogatepass")
        body.clear()
        fields = loads(text.removeprefix("\ufeff"))
    except JSONDecodeError as error:
        said = error.msg.removesuffix(" at")
        raise _invalid(
            {"loc": (error.pos,), "msg": "JSON decode error", "type": "json_invalid", "ctx": {"error": said}}
        ) from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, not_json(error)) from None
    del text
    return validated(fields, model)


def validated(fields: Any, model: type[Model], where: str = "body") -> Model:
    """Raises InvalidBody. where: body or query, for the place of a fault."""
    fields, more = few_unknown(fields, model)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        faults = [explained(fault, model) for fault in error.errors(include_url=False)]
        raise _invalid(*faults, more=more, where=where) from None


def _invalid(*faults: Any, more: int = 0, where: str = "body") -> RequestValidationError:
    return InvalidBody([{**fault, "loc": (where, *fault["loc"])} for fault in faults], more)
