"""Aliases of other servers' routes: /v1/generate, /stream, /model, task queues. No other module knows these names."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from fastserve.engine.request import Piece
from fastserve.jobqueue.record import MOST_TASKS, Task
from fastserve.jobqueue.states import TASK_STATES
from fastserve.server.api import native, queued
from fastserve.server.api.body import BodyRoute, read, validated
from fastserve.server.api.dependencies import STATUS, failure_message, finished, service_of
from fastserve.server.api.errors import WRONG_CONTENT_TYPE, ApiError, InvalidBody, Json, error_responses, not_json
from fastserve.server.api.fields import ModelName, Prompt
from fastserve.server.api.native_schema import GenerateAnswer, GenerateRequest
from fastserve.server.api.streaming import EVENTS, EventStream, on_disconnect, stream_response
from fastserve.server.http.origin import by_browser, is_json
from fastserve.server.jobs.jobs import Group, ServedJob
from fastserve.server.service import Service

router = APIRouter(route_class=BodyRoute, tags=["Other servers' names"])
RAW: dict[int | str, dict[str, Any]] = {
    200: {"content": EVENTS, "description": "`event: ttft`, then raw text, then `event: done`"},
    **native.REFUSALS,
}
INVALID: dict[int | str, dict[str, Any]] = {
    422: {
        "description": "Validation Error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}},
    }
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": GenerateRequest.model_json_schema()}},
    }
}
GET_FROM_BROWSER = "a GET of a browser starts nothing here: send POST /stream with a JSON body, or use curl -N"


class RawFormat:
    """SSE of raw text: a line break inside a token becomes another `data:` line of the same event."""

    def __init__(self, group: Group) -> None:
        self.job = group.jobs[0]
        self.started = time.monotonic()
        self.has_first_token = False

    def opening(self) -> bytes:
        return b""

    def piece(self, choice: int, piece: Piece) -> bytes:
        first = ""
        if not self.has_first_token and piece.token_id is not None:
            self.has_first_token = True
            first = f"event: ttft\ndata: {time.monotonic() - self.started:.6f}\n\n"
        if piece.token_id is None and not piece.text:
            return b""
        lines = piece.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return (first + "".join([f"data: {line}\n" for line in lines]) + "\n").encode("utf-8", "replace")

    def closing(self) -> bytes:
        assert self.job.answer is not None
        reason = self.job.answer["finish_reason"]
        failure = ""
        if reason in STATUS:
            text = " ".join(failure_message(reason, self.job.id, self.job.error).split())
            failure = f"event: error\ndata: {text}\n\n"
        return (failure + "event: done\ndata: \n\n").encode()


@router.post("/v1/generate", response_model=None, status_code=200, response_class=EventStream, responses=RAW)
async def v1_generate(request: Request, body: GenerateRequest) -> Response:
    return await _raw(request, body)


async def _raw(request: Request, body: GenerateRequest) -> Response:
    service = service_of(request)
    service.check_model(body.model)
    group = native.start_job(request, body, await service.tokenization.prompt(body.prompt), "generate", streams=True)
    return stream_response(group, RawFormat(group))


@router.post("/v1/generate_nobatch", responses=native.REFUSALS)
async def v1_generate_nobatch(request: Request, body: GenerateRequest) -> GenerateAnswer:
    """A baseline without batching: requests to this route run one at a time."""
    service = service_of(request)
    service.check_model(body.model)
    prompt = await service.tokenization.prompt(body.prompt)
    with contextlib.ExitStack() as place:
        place.enter_context(service.place())
        async with _nobatch_turn(request, service):
            place.close()  # the engine counts it from here on
            group = native.start_job(request, body, prompt, "generate", streams=False)
            await finished(request, group)
    answer: Any = group.jobs[0].answer
    return Json(answer)  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def _nobatch_turn(request: Request, service: Service) -> AsyncIterator[None]:
    """Holds the lock of /v1/generate_nobatch. Raises ApiError 409 when the client disconnects first, 504 on timeout."""
    turn = asyncio.create_task(service.nobatch_lock.acquire())
    try:
        async with on_disconnect(request.receive, turn.cancel):
            await asyncio.wait([turn], timeout=service.config.request_timeout or None)
        if turn.cancelled():
            raise ApiError(409, "the client closed the connection")
        if not turn.done():
            raise ApiError(504, "this request waited for its turn longer than the server allows; try again later")
        yield
    finally:
        if not turn.cancel() and not turn.cancelled():
            service.nobatch_lock.release()


@router.post(
    "/stream",
    response_model=None,
    status_code=200,
    response_class=EventStream,
    responses=RAW | INVALID,
    openapi_extra=BODY,
)
async def stream(request: Request) -> Response:
    """The body is parsed as JSON whatever its Content-Type (`curl -d` sends that of a form), except of a browser."""
    if by_browser(request.headers) and not is_json(request.headers.get("content-type", "")):
        raise ApiError(403, f"from a web page: {WRONG_CONTENT_TYPE}")
    try:
        body = await read(request, GenerateRequest)
    except InvalidBody as error:
        fault = error.errors()[0]
        if fault["type"] != "json_invalid":
            raise
        raise ApiError(400, not_json(fault["ctx"]["error"])) from None
    return await _raw(request, validated({}, GenerateRequest) if body is None else body)


@router.get("/stream", response_model=None, status_code=200, response_class=EventStream, responses=RAW)
async def stream_get(
    request: Request,
    prompt: Annotated[str, Query(min_length=1)],
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Response:
    """For `curl -N`. A browser that follows a link or loads an image must not start anything."""
    if by_browser(request.headers):
        raise ApiError(403, GET_FROM_BROWSER)
    return await _raw(request, validated(dict(request.query_params), GenerateRequest, "query"))


class ModelFacts(TypedDict):
    vocab_size: int
    eos: list[int]
    device: str
    max_batch_size: int
    sampling: dict[str, int | float]


@router.get("/model", responses=error_responses(401))
async def model(request: Request) -> ModelFacts:
    engine = service_of(request).engine
    return {
        "vocab_size": engine.vocab_size,
        "eos": sorted(engine.eos_ids),
        "device": str(engine.settings.get("device", "cpu")),
        "max_batch_size": engine.serving.max_batch,
        "sampling": engine.info.sampling,
    }


# -- durable jobs as tasks of a task queue -----------------------------------------------------------------------------


class SendText(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    prompt: Prompt = Field(validation_alias=AliasChoices("prompt", "text"))
    model_name: ModelName | None = Field(None, validation_alias=AliasChoices("model_name", "model"))


class TaskAccepted(TypedDict):
    task_id: str


@router.post("/send_text", responses=native.REFUSALS)
async def send_text(request: Request, body: SendText) -> TaskAccepted:
    job = await native.enqueue(
        request, GenerateRequest.model_validate({"prompt": body.prompt, "model": body.model_name})
    )
    return {"task_id": job.id}


@router.get("/get_task_status/{task_id}", responses=error_responses(401, 404))
async def get_task_status(request: Request, task_id: str) -> Task:
    return await _found(request, task_id)


@router.get("/poll_task_status", responses=error_responses(401, 404))
async def poll_task_status(request: Request, task_id: str) -> Task:
    return await _found(request, task_id)


@router.get("/tasks/", responses=error_responses(401))
async def tasks(request: Request) -> list[Task]:
    service = service_of(request)
    own = service.registry.visible_to(request.scope["state"].get("client"))
    here = [(job.created, _task(service, job)) for job in own if job.durable]
    ids = [id for _, id in await queued.listed(request)][:MOST_TASKS]
    there = [(job.created, job.task()) for job in (await queued.jobs(request, ids, answers=True)).values()]
    return [task for _, task in sorted([*here, *there], key=lambda each: -each[0])]


async def _found(request: Request, task_id: str) -> Task:
    service = service_of(request)
    if task_id not in service.registry.jobs and (job := await queued.find(request, task_id)) is not None:
        return job.task()
    return _task(service, native.find(request, task_id))


def _task(service: Service, job: ServedJob) -> Task:
    status = TASK_STATES[native.state_of(service, job)]
    result = job.error
    if status == "SUCCESS" and job.answer is not None:
        result = job.answer["text"]
    return {"task_id": job.id, "status": status, "result": result}


class Ok(TypedDict):
    status: Literal["ok"]


@router.get("/health_check")
async def health_check() -> Ok:
    return {"status": "ok"}
