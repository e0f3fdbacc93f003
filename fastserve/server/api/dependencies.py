"""Shared by all generating routes: client id, program id, waiting for the outputs, and failed requests as ApiError."""

from __future__ import annotations

from typing import NoReturn

from fastapi import Request

from fastserve.engine import Output
from fastserve.server.api.errors import ApiError
from fastserve.server.api.fields import MAX_NAME, Scheduled
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


def scheduling_of(request: Request, body: Scheduled) -> Scheduling:
    """The scheduling fields of the body; the program (session) id also by the header of load generators.

    Raises ApiError 400 for a header that is longer than a program may be.
    """
    session = request.headers.get("x-session-affinity", "")
    if len(session) > MAX_NAME:
        raise ApiError(400, f"X-Session-Affinity: it has {len(session)} characters; send at most {MAX_NAME}")
    return body.scheduling(session)


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
