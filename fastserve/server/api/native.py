"""Native routes: /generate, /chat, and /jobs (durable jobs, job status, cancellation)."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from fastserve.engine import SamplingParams
from fastserve.engine.snapshot import JobView as EngineJobView
from fastserve.server.api import queued
from fastserve.server.api.body import BodyRoute
from fastserve.server.api.dependencies import client_of, finished, scheduling_of, service_of
from fastserve.server.api.errors import ApiError, Json, error_responses
from fastserve.server.api.native_format import NativeFormat, response_body
from fastserve.server.api.native_schema import (
    ChatAnswer,
    ChatRequest,
    GenerateAnswer,
    GenerateRequest,
    JobAccepted,
    JobList,
    JobSummary,
    JobView,
    Sampling,
    State,
)
from fastserve.server.api.streaming import EVENTS, EventStream, stream_response
from fastserve.server.api.unknown_fields import check_query
from fastserve.server.jobs.jobs import Group, ServedJob
from fastserve.server.service import Service

router = APIRouter(route_class=BodyRoute)
REFUSALS = error_responses(400, 401, 404, 409, 413, 415, 429, 500, 503, 504)


def _either(model: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model, "content": EVENTS, "description": "The response, or an SSE stream"}, **REFUSALS}


@router.post("/generate", response_model=None, responses=_either(GenerateAnswer), tags=["Generate"])
async def generate(request: Request, body: GenerateRequest) -> Response:
    service = service_of(request)
    service.check_model(body.model)
    return await _answer(request, body, await service.tokenization.prompt(body.prompt), chat=False)


@router.post(
    "/generate/stream",
    response_model=None,
    status_code=200,
    response_class=EventStream,
    responses={200: {"content": EVENTS, "description": "SSE stream, one event a token"}, **REFUSALS},
    tags=["Generate"],
)
async def generate_stream(request: Request, body: GenerateRequest) -> Response:
    return await generate(request, body.model_copy(update={"stream": True}))


@router.post("/chat", response_model=None, responses=_either(ChatAnswer), tags=["Generate"])
async def chat(request: Request, body: ChatRequest) -> Response:
    service = service_of(request)
    service.check_model(body.model)
    prompt = await service.tokenization.conversation([message.model_dump() for message in body.messages])
    return await _answer(request, body, prompt, chat=True)


async def _answer(request: Request, body: Sampling, prompt: list[int], chat: bool) -> Response:
    group = start_job(request, body, prompt, "chat" if chat else "generate", streams=body.stream)
    if body.stream:
        return stream_response(group, NativeFormat(group, chat, body.return_token_ids))
    await finished(request, group)
    answer = group.jobs[0].answer
    assert answer is not None
    return Json(response_body(answer, chat))


def start_job(request: Request, body: Sampling, prompt: list[int], kind: str, streams: bool) -> Group:
    """Admits this request and submits its one job to the engine. Raises ApiError."""
    service = service_of(request)
    client = client_of(request, body.user)
    params = sampling(service, body, prompt)
    scheduling = scheduling_of(request, body, body.model)
    service.admit(client, [prompt])
    group = Group()
    service.start(
        prompt,
        params,
        group,
        client=client,
        kind=kind,
        metadata=body.metadata,
        scheduling=scheduling,
        streams=streams,
    )
    return group


def sampling(service: Service, body: Sampling, prompt: list[int]) -> SamplingParams:
    """SamplingParams, defaults from the server's settings. Raises ApiError 400."""
    wanted = body.max_new_tokens
    if body.max_length is not None:
        wanted = body.max_length - len(prompt)
        if wanted < 1:
            raise ApiError(
                400, f"max_length={body.max_length} leaves nothing to generate: the prompt has {len(prompt)} tokens"
            )
    tokens = service.output_limit(len(prompt), wanted, service.config.max_new_tokens)
    assert tokens is not None
    try:
        limit = max(tokens, body.min_tokens) if wanted is None else tokens
        return body.params(service.config, limit, service.engine.input_processor.lacks)
    except ValueError as error:
        raise ApiError(400, str(error)) from error


# -- jobs --------------------------------------------------------------------------------------------------------------


@router.post("/jobs", status_code=202, responses=REFUSALS, tags=["Jobs"])
async def submit_job(request: Request, response: Response, body: GenerateRequest) -> JobAccepted:
    """A durable job: stored on disk before the response, resumed after a crash or restart of the server.

    With --queue it is stored in Redis, and run by `fastserve worker`.
    """
    job = await enqueue(request, body)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/jobs/{job.id}"
    return {"job_id": job.id, "state": job.state}


async def enqueue(request: Request, body: GenerateRequest) -> queued.Accepted:
    """A durable job for this request. Raises ApiError."""
    service = service_of(request)
    service.check_model(body.model)
    if body.stream:
        raise ApiError(400, "a job does not stream; poll GET /jobs/{id}, or use /generate/stream")
    prompt = await service.tokenization.prompt(body.prompt)
    client = client_of(request, body.user)
    params = sampling(service, body, prompt)
    scheduling = scheduling_of(request, body, body.model)
    service.admit(client, [prompt])
    if service.job_queue is not None:
        return await queued.enqueue(service.job_queue, request, body, client)
    job = await service.enqueue(prompt, params, client=client, metadata=body.metadata, scheduling=scheduling)
    return queued.Accepted(job.id, job.current_state)


@router.get("/jobs", responses=error_responses(401, 404), tags=["Jobs"])
async def jobs(
    request: Request,
    state: Annotated[State | None, Query(description="only jobs in this state")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="at most so many jobs")] = 100,
    after: Annotated[
        str | None, Query(max_length=256, description="only jobs before this one: `next` of the last page")
    ] = None,
) -> JobList:
    """This client's jobs, newest first, without their results: GET /jobs/{job_id} has one's result.

    `total` counts all jobs in that state; `next` is what the next page's `after` wants, and null on the last page.
    """
    check_query(request, ("state", "limit", "after"))
    service = service_of(request)
    if service.job_queue is not None:
        return await _with_queue(request, state, limit, after)
    own = list(service.registry.visible_to(request.scope["state"].get("client")))
    found = [job for job in own if state in (None, state_of(service, job))]
    page = found
    if after is not None:
        older = set(own[own.index(find(request, after)) + 1 :])
        page = [job for job in found if job in older]
    shown = page[:limit]
    more = shown[-1].id if len(page) > limit else None
    live = await _live(service) if any(job.handle is not None for job in shown) else {}

    def rendered() -> JobList:
        listed: JobList = {"jobs": [summary(job, live) for job in shown], "total": len(found), "next": more}
        return Json(listed)  # type: ignore[return-value]

    return await asyncio.to_thread(rendered)  # they may be megabytes


async def _with_queue(request: Request, state: State | None, limit: int, after: str | None) -> JobList:
    """The same, of this server's own jobs and those of the queue."""
    service = service_of(request)
    own = {job.id: job for job in service.registry.visible_to(request.scope["state"].get("client"))}
    here = [(job.created, job.id) for job in own.values() if state in (None, state_of(service, job))]
    found = sorted([*here, *await queued.listed(request, state)], reverse=True)
    page = found
    if after is not None:
        last = await queued.find(request, after) or find(request, after)
        page = [each for each in found if each < (last.created, last.id)]
    ids = [id for _, id in page[:limit]]
    there = await queued.jobs(request, [id for id in ids if id not in own])
    live = await _live(service)
    shown: Any = [
        summary(own[id], live) if id in own else there[id].summary() for id in ids if id in own or id in there
    ]
    listed: JobList = {"jobs": shown, "total": len(found), "next": ids[-1] if len(page) > limit else None}
    return Json(listed)  # type: ignore[return-value]


@router.get("/jobs/{job_id}", responses=error_responses(401, 404), tags=["Jobs"])
async def job(request: Request, job_id: str) -> JobView:
    service = service_of(request)
    if job_id not in service.registry.jobs and (elsewhere := await queued.find(request, job_id)) is not None:
        return Json(elsewhere.view())  # type: ignore[return-value]
    found = find(request, job_id)
    live = await _live(service) if found.handle is not None else {}
    return Json(view(service, found, live))  # type: ignore[return-value]


@router.delete("/jobs/{job_id}", responses=error_responses(401, 404), tags=["Jobs"])
async def cancel_job(request: Request, job_id: str) -> JobView:
    """A job that has ended stays as it is."""
    service = service_of(request)
    if job_id not in service.registry.jobs and (elsewhere := await queued.cancel(request, job_id)) is not None:
        return Json(elsewhere.view())  # type: ignore[return-value]
    found = find(request, job_id)
    while (handle := found.handle) is not None:  # a step that fails meanwhile restarts a durable job
        handle.cancel()
        await asyncio.to_thread(handle.result)
        service.settle(found)
    if found.ended is None:
        service.drop(found)
    if found.durable:
        await service.store.written()
    return Json(view(service, found, {}))  # type: ignore[return-value]


def find(request: Request, job_id: str) -> ServedJob:
    """A job of this client. Raises ApiError 404."""
    job = service_of(request).registry.jobs.get(job_id)
    client = request.scope["state"].get("client")
    if job is None or (client is not None and job.client != client):
        raise ApiError(404, f"there is no job {job_id!r}; finished ones are kept for a while only")
    return job


def state_of(service: Service, job: ServedJob) -> str:
    """Its current state."""
    service.settle(job)
    return job.current_state


Live: TypeAlias = dict[int, tuple[int | None, EngineJobView]]
"""Engine's job id -> (position among the waiting jobs, None while it runs; its state in the engine)."""


async def _live(service: Service) -> Live:
    if not service.engine.alive:
        return {}
    snapshot = await asyncio.to_thread(service.engine.snapshot)
    place = 0
    found: Live = {}
    for job in snapshot.jobs:
        waits = job.state != "running"
        place += waits
        found[job.id] = place if waits else None, job
    return found


def view(service: Service, job: ServedJob, live: Live) -> JobView:
    service.settle(job)
    answer: Any = job.answer
    return {**summary(job, live, answer), "result": answer}


def summary(job: ServedJob, live: Live, answer: Any = None) -> JobSummary:
    """position: place among the waiting jobs by arrival; the policy decides which one is next."""
    place, seen = (None, None) if job.handle is None else live.get(job.handle.id, (None, None))
    answer = answer or job.answer
    state: Any = job.current_state
    return {
        "job_id": job.id,
        "kind": job.kind,
        "state": state,
        "durable": job.durable,
        "client": job.client,
        "model": job.model,
        "created": job.created,
        "ended": job.ended,
        "prompt_tokens": job.prompt_tokens,
        "tokens_generated": seen.output_tokens if seen else answer["tokens_generated"] if answer else 0,
        "preemptions": seen.preemptions if seen else answer["preemption_count"] if answer else 0,
        "cached_tokens": seen.cached_tokens if seen else answer["cached_tokens"] if answer else 0,
        "held_s": seen.held_s if seen else answer["held_s"] if answer else 0.0,
        "queue_level": seen.level if seen else None,
        "position": place,
        "reason": answer["finish_reason"] if answer else None,
        "error": job.error,
        "metadata": job.metadata,
    }
