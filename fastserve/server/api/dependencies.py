"""Shared by all generating routes: client id, program id, waiting for the outputs, and failed requests as ApiError."""

from __future__ import annotations

from typing import NoReturn

from fastapi import Request

from fastserve.engine import Output
from fastserve.server.api.errors import ApiError
from fastserve.server.api.program_names import named
from fastserve.server.api.scheduled import Scheduled
from fastserve.server.api.streaming import on_disconnect
from fastserve.server.jobs.jobs import Group, Scheduling
from fastserve.server.service import DRAINED, Service

STATUS = {"cancelled": 409, "timeout": 504, "error": 500}
"""Finish reason -> HTTP status of a failed request; stop, length and truncated are successes."""


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def client_of(request: Request, user: str | None) -> str:
    """Client id: the bearer token's, else `user` of the body, else "default"."""
    known: str | None = request.scope["state"].get("client")
    return known or user or "default"


def scheduling_of(request: Request, body: Scheduled, model: str | None) -> Scheduling:
    """What the body and the headers say to the scheduler, and the adapter that `model` names. Raises ApiError 400 for a
    header that is too long, 404 for a model that is not served.
    """
    client = request.scope["state"].get("client")
    programs = service_of(request).programs
    told = named(body, request.scope["headers"])
    program, final = programs.of(client, told)
    return Scheduling(
        program=program,
        priority=body.priority or 0,
        deadline_s=body.deadline_s,
        ttft_slo_s=body.ttft_slo_s,
        tpot_slo_s=body.tpot_slo_s,
        tool=told.tool or body.brings,
        calls=told.calls,
        final=final,
        cache_salt=programs.salt(client, body.cache_salt),
        adapter=service_of(request).check_model(model),
    )


async def finished(request: Request, group: Group) -> list[Output]:
    """The outputs, by choice. Raises ApiError for the first choice that failed.

    When the client disconnects, the jobs are cancelled.
    """
    try:
        async with on_disconnect(request.receive, group.queue.disconnect):
            ended = await group.wait()
    finally:
        group.cancel()
    if not ended:
        raise ApiError(409, "the client closed the connection")
    outputs = [group.outputs[choice] for choice in range(len(group.jobs))]
    for job, output in zip(group.jobs, outputs, strict=True):
        if output.finish_reason in STATUS:
            raise_failure(output.finish_reason, job.id, job.error)
    return outputs


def raise_failure(reason: str, job: str, error: str | None) -> NoReturn:
    """Raises ApiError for a job that failed."""
    raise ApiError(503 if error == DRAINED else STATUS[reason], failure_message(reason, job, error))


def failure_message(reason: str, job: str, error: str | None) -> str:
    """The error message of a failed request, with its id."""
    what = {
        "cancelled": "was cancelled",
        "timeout": "took longer than the server allows and was stopped",
        "error": "failed",
    }[reason]
    return f"request {job} {what}" + (f": {error}" if error else "")
