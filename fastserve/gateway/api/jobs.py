"""Durable jobs of our servers behind the gateway, while no queue of its own is there: whose job is where is remembered.

A job belongs to the client that has sent it. After a restart of the gateway its ids are asked of all our servers if
there are no tokens; with tokens they are then nobody's, since upstreams know one client alone: this gateway.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from fastserve.gateway import capable
from fastserve.gateway.api.generate import answered, call_of, known_client
from fastserve.gateway.asking import AnswerError
from fastserve.gateway.call import whole
from fastserve.gateway.core import Core, gateway_of
from fastserve.gateway.upstream import Upstream
from fastserve.http_client import HttpClientError
from fastserve.server.api.errors import ApiError, Json

router = APIRouter(tags=["Jobs"])

MOST = 100_000
"""Jobs that are remembered."""


class Placed(NamedTuple):
    client: str | None
    upstream: str


class Places:
    """Where jobs are, by id."""

    def __init__(self) -> None:
        self.by_id: OrderedDict[str, Placed] = OrderedDict()

    def put(self, job: str, client: str | None, upstream: str) -> None:
        self.by_id[job] = Placed(client, upstream)
        if len(self.by_id) > MOST:
            self.by_id.popitem(last=False)


def places_of(request: Request) -> Places:
    state = request.app.state
    if not hasattr(state, "job_places"):
        state.job_places = Places()
    found: Places = state.job_places
    return found


@router.post("/jobs", response_model=None)
async def send_job(request: Request) -> Response:
    return await _sent(request, "job_id")


@router.post("/send_text", response_model=None)
async def send_text(request: Request) -> Response:
    return await _sent(request, "task_id")


async def _sent(request: Request, key: str) -> Response:
    call = await call_of(request)
    response = await answered(request, call)
    body = await whole(response)
    if response.status_code in (200, 202):
        try:
            job = str(json.loads(body)[key])
        except (ValueError, KeyError, TypeError):
            raise ApiError(502, f"the upstream's answer has no {key}") from None
        places_of(request).put(job, known_client(request), response.headers.get("x-upstream", ""))
    again = Response(body, response.status_code)
    again.raw_headers = response.raw_headers
    return again


@router.get("/jobs", response_model=None)
async def list_jobs(request: Request) -> Response:
    """The client's own, of all our servers; what they say of them."""
    gateway, client = gateway_of(request), known_client(request)
    known = places_of(request).by_id
    found: list[Any] = []
    for upstream in _servers(gateway):
        try:
            listed = await gateway.asking.json(upstream, "/jobs")
        except (AnswerError, HttpClientError):
            continue
        jobs = listed.get("jobs") if isinstance(listed, dict) else None
        found += [
            job
            for job in (jobs if isinstance(jobs, list) else ())
            if isinstance(job, dict) and (client is None or _owner(known, job) == client)
        ]
    return Json({"jobs": found})


@router.get("/jobs/{job_id}", response_model=None)
async def one_job(request: Request, job_id: str) -> Response:
    return await _about(request, job_id, "GET", f"/jobs/{quote(job_id, safe='')}")


@router.delete("/jobs/{job_id}", response_model=None)
async def cancel_job(request: Request, job_id: str) -> Response:
    return await _about(request, job_id, "DELETE", f"/jobs/{quote(job_id, safe='')}")


@router.get("/get_task_status/{task_id}", response_model=None)
async def task_status(request: Request, task_id: str) -> Response:
    return await _about(request, task_id, "GET", f"/get_task_status/{quote(task_id, safe='')}")


@router.get("/poll_task_status", response_model=None)
async def poll_task_status(request: Request, task_id: str) -> Response:
    return await _about(request, task_id, "GET", f"/get_task_status/{quote(task_id, safe='')}")


@router.delete("/programs/{program:path}", response_model=None)
async def program_ended(request: Request, program: str) -> Response:
    """Told to all our servers: any of them may have had requests of it."""
    gateway, client = gateway_of(request), known_client(request)
    told = []
    for upstream in _servers(gateway):
        try:
            path = f"/programs/{quote(program, safe='')}"
            status, _ = await gateway.asking.answer(upstream, path, method="DELETE", client=client)
        except (AnswerError, HttpClientError):
            continue
        if status < 400:
            told.append(upstream.name)
    return Json({"program": program, "released": bool(told)})


async def _about(request: Request, job: str, method: str, path: str) -> Response:
    gateway, client = gateway_of(request), known_client(request)
    placed = places_of(request).by_id.get(job)
    if placed is not None and placed.client != client:
        placed = None
    if placed is None and client is not None:
        raise _unknown(job)
    where = [each for each in _servers(gateway) if placed is None or each.name == placed.upstream]
    for upstream in where:
        try:
            status, body = await gateway.asking.answer(upstream, path, method=method)
        except (AnswerError, HttpClientError) as error:
            if placed is not None:
                raise ApiError(503, f"upstream {upstream.name}, which has this job: {error}", retry_after=5) from None
            continue
        if status != 404 or placed is not None:
            return Response(body, status, media_type="application/json")
    raise _unknown(job)


def _owner(known: Mapping[str, Placed], job: Mapping[str, Any]) -> str | None:
    placed = known.get(str(job.get("job_id")))
    return None if placed is None else placed.client


def _servers(gateway: Core) -> list[Upstream]:
    return [each for each in gateway.upstreams if capable.has(each, "/jobs") and each.state != "failing"]


def _unknown(job: str) -> ApiError:
    return ApiError(404, f"there is no job {job[:100]!r}")
