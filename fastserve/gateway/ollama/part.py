"""The routes of Ollama's API. Generation goes the way of all calls: stages, router, retries."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from fastserve.gateway.api.described import MESSAGES, MODEL, body
from fastserve.gateway.api.generate import SHORT, json_of, known_client, made
from fastserve.gateway.api.generate import answered as forwarded
from fastserve.gateway.call import Call, Stage, closed, whole
from fastserve.gateway.core import Core, gateway_of
from fastserve.gateway.models.access import check_manager
from fastserve.gateway.models.api import told
from fastserve.gateway.models.part import Models
from fastserve.gateway.ollama import models, requests
from fastserve.gateway.ollama.answers import NO_ANSWER, Answer, Lines, error_line, words_of
from fastserve.gateway.ollama.requests import Asked
from fastserve.ollama_api import LATEST
from fastserve.package_version import package_version
from fastserve.server.api.errors import WRONG_CONTENT_TYPE, ApiError, Json, encoded
from fastserve.server.http.origin import by_browser, is_json

NDJSON: Final = "application/x-ndjson"
NAMED: Final = body({"model": MODEL})
LINES: Final[dict[str, Any]] = {"type": "boolean", "default": True, "description": "a line of JSON for each piece"}
ASKED: Final[dict[str, Any]] = {
    "model": MODEL, "stream": LINES, "options": {"type": "object", "description": "num_predict, temperature, seed ..."},
    "keep_alive": {"description": "seconds, or text as 5m; -1: always, 0: not at all"},
}  # fmt: skip
router = APIRouter(tags=["Ollama"])

INSTEAD: Final = {
    "embed": "this gateway makes no embeddings: ask a server for embedding models",
    "embeddings": "this gateway makes no embeddings: ask a server for embedding models",
    "create": "models are made elsewhere: put one into --models-dir, or name it in the --models file",
    "copy": "a second name of a model is a line in the --models file",
    "push": "models are published elsewhere",
    "blobs": "files of models are not taken over HTTP: put them into --models-dir",
    "web_search": "this gateway searches nothing",
    "web_fetch": "this gateway fetches nothing",
}
"""First part of a path of Ollama's that is not served -> what to do instead."""


class Ollama:
    """The part of a gateway."""

    name = "ollama"
    router: APIRouter | None = router
    stage: Stage | None = None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {"version": package_version()}


def make(gateway: Core) -> Ollama:
    return Ollama()


# -- generation --------------------------------------------------------------------------------------------------------


@router.post("/api/generate", response_model=None, openapi_extra=body({**ASKED, "prompt": {"type": "string"}}))
async def generate(request: Request) -> Response:
    """A text goes on (raw), or a prompt is answered."""
    return await answered(request, requests.generate)


@router.post("/api/chat", response_model=None, openapi_extra=body({**ASKED, "messages": MESSAGES}))
async def chat(request: Request) -> Response:
    """The messages of a chat are answered."""
    return await answered(request, requests.chat)


async def read(request: Request) -> Call:
    """The body is taken for JSON whatever its Content-Type (`curl -d` sends that of a form), except of a browser."""
    if by_browser(request.headers) and not is_json(request.headers.get("content-type", "")):
        raise ApiError(403, f"from a web page: {WRONG_CONTENT_TYPE}")
    gateway = gateway_of(request)
    client = known_client(request)
    if client is not None:
        gateway.limits.test(client)
    try:
        raw, fields = await json_of(request, gateway)
    except ApiError as error:
        raise ApiError(400, error.message) if error.status == 422 else error from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body has to be a JSON object")
    return made(request, gateway, raw, fields)


async def answered(request: Request, translate: Callable[[Any], Asked]) -> Response:
    """translate: from Ollama's body."""
    gateway = gateway_of(request)
    call = await read(request)

    def rewritten() -> Asked:
        asked = translate(call.fields)
        call.path, call.fields = asked.path, {}
        call.rewrite(**asked.fields | {"model": models.resolved(gateway, asked.model)})
        call.headers = _as_json(call.headers)
        return asked

    asked = rewritten() if len(call.body) <= SHORT else await gateway.input_pool.run(rewritten)
    answer, name = Answer(asked.model, asked.chat), call.model
    if asked.empty:
        return await _without_prompt(request, asked, name, answer)
    response = await forwarded(request, call)
    _keep(request, name, asked.keep)
    if response.status_code != 200:
        error = {"error": words_of(_parsed(await whole(response)))}
        return Json(error, response.status_code, _headers(response))
    if asked.stream and isinstance(response, StreamingResponse) and _is_events(response):
        response.body_iterator = _lines(response.body_iterator, Lines(answer))
        del response.headers["content-length"]
        response.headers["content-type"] = NDJSON
        return response
    try:
        found = answer.whole(_parsed(await whole(response)))
    except (ValueError, TypeError, AttributeError):
        raise ApiError(502, NO_ANSWER) from None
    return Response(found, 200, _headers(response), NDJSON if asked.stream else "application/json")


async def _lines(parts: Any, lines: Lines) -> AsyncIterator[bytes]:
    """A stream that breaks ends with a line that says so, as Ollama's do."""
    try:
        async for part in parts:
            if made := lines.feed(part.encode() if isinstance(part, str) else bytes(part)):
                yield made
        last = lines.end()
    except Exception as error:
        last = error_line(str(error) or type(error).__name__)
    finally:
        await closed(parts)
    yield last


async def _without_prompt(request: Request, asked: Asked, name: str, answer: Answer) -> Response:
    """A model is loaded, or unloaded: that is what a request without a prompt is for."""
    gateway = gateway_of(request)
    part = models.managed(gateway)
    if part is not None and models.known(gateway, name):
        with told():
            if asked.unloads:
                check_manager(request)
                await part.unload(name)
            else:
                await part.load(name)
                _keep(request, name, asked.keep)
    elif not gateway.upstreams.having(name):
        raise models.not_found(asked.model)
    return Response(answer.loaded("unload" if asked.unloads else "load"), media_type="application/json")


def _keep(request: Request, name: str, seconds: float | None) -> None:
    """keep_alive of a client that may not manage models is not heard: they are every client's."""
    gateway = gateway_of(request)
    part = models.managed(gateway)
    if part is None or seconds is None or not models.known(gateway, name):
        return
    with contextlib.suppress(ApiError, ValueError):
        check_manager(request)
        part.keep(name, -1.0 if requests.is_always(seconds) else seconds)


def _headers(response: Response) -> dict[str, str]:
    """Those of an upstream's answer that the gateway's own has too."""
    return {name: value for name, value in response.headers.items() if name.startswith("x-") or name == "retry-after"}


def _as_json(headers: Headers) -> Headers:
    kept = [pair for pair in headers.raw if pair[0].lower() not in (b"content-type", b"accept")]
    return Headers(raw=[*kept, (b"content-type", b"application/json")])


def _is_events(response: Response) -> bool:
    return response.headers.get("content-type", "").startswith("text/event-stream")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return {"error": body[:200].decode(errors="replace")} if body else {"error": NO_ANSWER}


# -- models ------------------------------------------------------------------------------------------------------------


@router.get("/api/version")
async def version() -> dict[str, str]:
    return {"version": package_version()}


@router.get("/api/tags")
async def tags(request: Request) -> dict[str, Any]:
    """All models that a request may name."""
    return {"models": await models.tags(gateway_of(request))}


@router.get("/api/ps")
async def running(request: Request) -> dict[str, Any]:
    """Models in memory."""
    return {"models": await models.loaded(gateway_of(request))}


@router.post("/api/show", response_model=None, openapi_extra=NAMED)
async def show(request: Request) -> Response:
    """What is known of a model."""
    gateway = gateway_of(request)
    return Json(await models.shown(gateway, models.resolved(gateway, named(await read(request)))))


@router.post("/api/pull", response_model=None, openapi_extra=body({"model": MODEL, "stream": LINES}))
async def pull(request: Request) -> Response:
    """Downloads a model from the hub, OWNER/NAME or OWNER/NAME:FILE.gguf; progress comes as a line each."""
    call = await read(request)
    name = named(call).removesuffix(LATEST)
    part = managing(request)
    progress = part.pull(name)
    with told():
        first = await anext(progress)  # before the answer begins: what cannot be pulled has a status of its own
        if (call.fields or {}).get("stream") is False:
            async for _ in progress:
                pass
            return Json({"status": "success"})
    return StreamingResponse(_pulled(name, first, progress), media_type=NDJSON)


async def _pulled(
    name: str, first: Mapping[str, Any], progress: AsyncIterator[Mapping[str, Any]]
) -> AsyncIterator[bytes]:
    yield encoded({"status": "pulling manifest"}) + b"\n"
    try:
        yield _progress(name, first)
        async for step in progress:
            yield _progress(name, step)
    except Exception as error:
        yield error_line(str(error) or type(error).__name__)
        return
    finally:
        await closed(progress)
    yield encoded({"status": "success"}) + b"\n"


def _progress(name: str, step: Mapping[str, Any]) -> bytes:
    """digest: Ollama names a layer, and a client's bar goes by it; here the whole model is one."""
    if "completed" not in step:
        return encoded({"status": "writing manifest"}) + b"\n"
    found = {"status": f"pulling {name}", "digest": name, "total": step["total"], "completed": step["completed"]}
    return encoded(found) + b"\n"


@router.delete("/api/delete", response_model=None, openapi_extra=NAMED)
async def delete(request: Request) -> Response:
    """Deletes a model that was downloaded."""
    gateway = gateway_of(request)
    name = models.resolved(gateway, named(await read(request)))
    part = managing(request)
    if not models.known(gateway, name):
        raise models.not_found(name)
    with told():
        await part.delete(name)
    return Response(status_code=200)


def managing(request: Request) -> Models:
    """The part that loads models. Raises ApiError 501 where there is none, and 403 for who may not use it."""
    part = models.managed(gateway_of(request))
    if part is None:
        raise ApiError(501, models.NOT_MANAGED)
    check_manager(request)
    return part


@router.api_route("/api/{rest:path}", methods=["GET", "POST", "DELETE", "HEAD"], include_in_schema=False)
async def others(request: Request, rest: str) -> Response:
    first = rest.partition("/")[0]
    what = INSTEAD.get(first, "served are tags, ps, version, show, pull, delete, generate and chat")
    raise ApiError(501 if first in INSTEAD else 404, f"{request.method} /api/{rest[:100]}: {what}")


def named(call: Call) -> str:
    """The model of a request, which old clients call `name`. Raises ApiError 400."""
    fields = call.fields or {}
    name = fields.get("model") or fields.get("name")
    if not isinstance(name, str) or len(name) > 1024:
        raise ApiError(400, "model: it has to be the name of a model")
    return name
