"""What every route that generates does with its request: who asks, waiting for the end, and what its end means."""

from __future__ import annotations

from typing import NoReturn

from fastapi import Request

from fastserve.engine import Output
from fastserve.server.api.errors import ApiError
from fastserve.server.api.fields import Scheduled
from fastserve.server.api.streaming import departure
from fastserve.server.jobs.jobs import Group, Scheduling
from fastserve.server.service import DRAINED, Service

STATUS = {"cancelled": 409, "timeout": 504, "error": 500}
"""Finish reason -> status of a plain answer; stop and length are answers."""


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def client_of(request: Request, user: str | None) -> str:
    """The token's client; without tokens `user`, else "default"."""
    known: str | None = request.scope["state"].get("client")
    return known or user or "default"


def scheduling_of(request: Request, body: Scheduled) -> Scheduling:
    """Load generators mark the requests of one session by a header."""
    return body.scheduling(request.headers.get("x-session-affinity", ""))


async def finished(request: Request, group: Group) -> list[Output]:
    """The outputs, by choice. Raises ApiError for the first choice that did not end by itself.

    When the client leaves, the jobs are cancelled and nothing is left to answer.
    """
    try:
        async with departure(request.receive, group.feed.leave):
            ended = await group.wait()
    finally:
        group.cancel()
    if not ended:
        raise ApiError(409, "the client closed the connection")
    outputs = [group.outputs[choice] for choice in range(len(group.jobs))]
    for job, output in zip(group.jobs, outputs, strict=True):
        if output.finish_reason in STATUS:
            refuse(output.finish_reason, job.id, job.error)
    return outputs


def refuse(reason: str, job: str, error: str | None) -> NoReturn:
    """Raises ApiError for a job that did not end by itself."""
    raise ApiError(503 if error == DRAINED else STATUS[reason], why(reason, job, error))


def why(reason: str, job: str, error: str | None) -> str:
    """One sentence that names the request."""
    what = {
        "cancelled": "was cancelled",
        "timeout": "took longer than the server allows and was stopped",
        "error": "failed",
    }[reason]
    return f"request {job} {what}" + (f": {error}" if error else "")
