"""OpenAI's routes: models, completions, chat completions; vLLM's: tokenize, detokenize, version, ping, load."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from fastserve.engine import Output
from fastserve.package_version import package_version
from fastserve.server.api.body import BodyRoute
from fastserve.server.api.dependencies import client_of, finished, scheduling_of, service_of
from fastserve.server.api.errors import ApiError, Json, error_responses
from fastserve.server.api.native_schema import ModelCard
from fastserve.server.api.openai_answer import ChatCompletion, Completion, ModelCards
from fastserve.server.api.openai_format import ChatFormat, CompletionFormat, ReplyState
from fastserve.server.api.openai_refused import refuse
from fastserve.server.api.openai_schema import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    Generation,
    TokenizeRequest,
)
from fastserve.server.api.streaming import EVENTS, stream_response
from fastserve.server.api.tokenization import SHORT_LIST
from fastserve.server.jobs.jobs import Group
from fastserve.server.service import Service
from fastserve.server.telemetry.load import Load

COMPLETION_TOKENS = 16
"""OpenAI's default max_tokens of completions; of chat it is the rest of the context."""

AT_ONCE = 16
"""Choices that are submitted without a pause."""

SHORT_LOGPROBS = 256
"""Tokens whose log probabilities are written on the event loop."""

router = APIRouter(route_class=BodyRoute, tags=["OpenAI"])
REFUSALS = error_responses(400, 401, 404, 409, 413, 415, 429, 500, 503, 504, openai=True)


def _either(model: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model, "content": EVENTS, "description": "The response, or an SSE stream"}, **REFUSALS}


class Version(TypedDict):
    version: str


class Tokenized(TypedDict):
    count: int
    max_model_len: int
    tokens: list[int]


class Detokenized(TypedDict):
    prompt: str


@router.get("/v1/models", responses=error_responses(401, openai=True))
async def models(request: Request) -> ModelCards:
    return {"object": "list", "data": model_cards(service_of(request))}


@router.get("/models/{name:path}", include_in_schema=False)
@router.get("/v1/models/{name:path}", responses=error_responses(401, 404, openai=True))
async def model(request: Request, name: str) -> ModelCard:
    service = service_of(request)
    adapter = service.check_model(name)
    return next(card for card in model_cards(service) if card["id"] == (adapter or service.model))


def model_cards(service: Service) -> list[ModelCard]:
    """The served model as OpenAI's routes list it, and its adapters as vLLM does."""
    base: ModelCard = {
        "id": service.model,
        "object": "model",
        "created": int(service.started),
        "owned_by": "fastserve",
        "root": service.engine.model_name,
        "parent": None,
        "max_model_len": service.engine.max_model_len,
    }
    cards: list[ModelCard] = [
        {**base, "id": one.name, "root": one.path, "parent": service.model} for one in service.adapters.loaded.values()
    ]
    return [base, *cards]


@router.post("/completions", response_model=None, include_in_schema=False)
@router.post("/v1/completions", response_model=None, responses=_either(Completion))
async def completions(request: Request, body: CompletionRequest) -> Response:
    service = service_of(request)
    service.check_model(body.model)
    refuse(body.model_extra or {})
    cut = body.cut(COMPLETION_TOKENS)
    prompts = await service.tokenization.prompts(body.prompts, cut, body.add_special_tokens)
    group = await _start(service, request, body, prompts, "completion", COMPLETION_TOKENS, body.logprobs)
    form = CompletionFormat(ReplyState(service, group, prompts, body, body.logprobs or 0))
    if body.stream:
        return stream_response(group, form)
    outputs = await finished(request, group)
    return await _answer(service, form, outputs)


@router.post("/chat/completions", response_model=None, include_in_schema=False)
@router.post("/v1/chat/completions", response_model=None, responses=_either(ChatCompletion))
async def chat_completions(request: Request, body: ChatCompletionRequest) -> Response:
    service = service_of(request)
    service.check_model(body.model)
    refuse({**(body.model_extra or {}), "tools": body.tools})
    messages = [message.to_template() for message in body.messages]
    body.max_tokens = body.max_completion_tokens or body.max_tokens
    prompt = await service.tokenization.conversation(messages, body.rendering, body.cut(1), body.add_special_tokens)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    group = await _start(service, request, body, [prompt], "chat completion", None, logprobs)
    form = ChatFormat(ReplyState(service, group, [prompt], body, logprobs or 0))
    if body.stream:
        return stream_response(group, form)
    outputs = await finished(request, group)
    return await _answer(service, form, outputs)


async def _answer(service: Service, form: CompletionFormat, outputs: list[Output]) -> Response:
    entries = sum([len(output.token_ids) for output in outputs if output.logprobs is not None])
    content = (
        form.response(outputs)
        if entries <= SHORT_LOGPROBS
        else await service.input_pool.run(partial(form.response, outputs))
    )
    return Response(content, media_type=Json.media_type)


DEFAULTS = {"temperature", "top_p", "top_k"}
"""Settings of the server that a request may leave to it: see FastServeConfig.defaults_for."""


async def _start(
    service: Service,
    request: Request,
    body: Generation,
    prompts: list[list[int]],
    kind: str,
    default_tokens: int | None,
    logprobs: int | None,
) -> Group:
    """Submits one job for each choice: all of them, or none."""
    config = service.config
    if config.defaults_for == "all":
        for name in DEFAULTS & config.model_fields_set:
            if getattr(body, name) is None:
                setattr(body, name, getattr(config, name))
        default_tokens = config.max_new_tokens if "max_new_tokens" in config.model_fields_set else default_tokens
    client = client_of(request, body.user)
    scheduling = scheduling_of(request, body, body.model)
    service.admit(client, prompts)
    group = Group()
    last = len(prompts) * body.choices - 1
    try:
        for prompt in prompts:
            tokens = service.output_limit(len(prompt), body.max_tokens, default_tokens)
            make = partial(body.params, tokens, logprobs)
            params = await service.tokenization.prepared(prompt, make, short=not body.constrains)
            for _ in range(body.choices):
                if len(group.jobs) % AT_ONCE == AT_ONCE - 1 or len(prompt) > SHORT_LIST:  # others have their turn
                    await asyncio.sleep(0)
                service.start(
                    prompt,
                    params.seeded(None if body.seed is None else body.seed + len(group.jobs)),
                    group,
                    client=client,
                    kind=kind,
                    scheduling=scheduling._replace(final=scheduling.final and len(group.jobs) == last),
                    streams=bool(body.stream),
                    prepared=True,
                )
    except BaseException as error:  # ApiError, or the server ends
        group.cancel()
        if isinstance(error, ApiError) and error.param == "choices":
            error.param = "guided_choice" if body.guided_choice else "structured_outputs"
        elif isinstance(error, ApiError) and error.param == "prompt" and isinstance(body, ChatCompletionRequest):
            error.param = "messages"
        raise
    return group


@router.post("/tokenize", responses=error_responses(400, 401, 404, 413))
async def tokenize(request: Request, body: TokenizeRequest) -> Tokenized:
    service = service_of(request)
    service.check_model(body.model)
    if body.messages is None:
        tokens = await service.tokenization.tokens(body.prompt or "", body.add_special_tokens is not False)
    else:
        messages = [message.to_template() for message in body.messages]
        tokens = await service.tokenization.conversation(messages, body.rendering, special=body.add_special_tokens)
    found = {"count": len(tokens), "max_model_len": service.engine.max_model_len, "tokens": tokens}
    return Json(found)  # type: ignore[return-value]


@router.post("/detokenize", responses=error_responses(400, 401, 404, 413))
async def detokenize(request: Request, body: DetokenizeRequest) -> Detokenized:
    service = service_of(request)
    service.check_model(body.model)
    return {"prompt": await service.tokenization.text_of(body.tokens)}


@router.get("/version", responses=error_responses(401))
async def version_(request: Request) -> Version:
    return {"version": package_version()}


@router.get("/ping", response_class=Response, responses={200: {"description": "Alive", "content": {}}})
async def ping() -> Response:
    return Response()


@router.get("/load", responses=error_responses(401))
async def load(request: Request) -> Load:
    """Requests in flight, and what a gateway goes by."""
    service = service_of(request)
    return service.load_now.look(service.load, service.draining)
