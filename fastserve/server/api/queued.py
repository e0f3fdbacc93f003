"""Jobs of the queue across machines (--queue) on this server's routes; without one they are in this server's store."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import Request

from fastserve.jobqueue.jobs import JobQueue
from fastserve.jobqueue.record import QueuedJob
from fastserve.server.api.dependencies import service_of
from fastserve.server.api.native_schema import GenerateRequest
from fastserve.server.api.program_names import named
from fastserve.server.api.queue_errors import answering


class Accepted(NamedTuple):
    """A durable job that was taken in."""

    id: str
    state: str


async def enqueue(queue: JobQueue, request: Request, body: GenerateRequest, client: str) -> Accepted:
    """In Redis when this returns. Raises ApiError 503, and then it was not accepted."""
    fields = body.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    told = named(body, request.scope["headers"])  # what headers say, the request of the worker says in its body
    fields |= {name: value for name in ("program", "tool", "final") if (value := getattr(told, name))}
    fields["model"] = model = service_of(request).model  # whoever runs it, runs it with this one
    with answering():
        job = await queue.submit(fields, client=client, model=model)
    return Accepted(job.id, job.state)


async def find(request: Request, job_id: str) -> QueuedJob | None:
    """A job of this client; None where there is none, or no queue. Raises ApiError 503."""
    queue = service_of(request).job_queue
    if queue is None:
        return None
    with answering():
        return await queue.find(job_id, _client(request))


async def cancel(request: Request, job_id: str) -> QueuedJob | None:
    """As find(), after it was cancelled."""
    queue = service_of(request).job_queue
    if queue is None:
        return None
    with answering():
        return await queue.cancel(job_id, _client(request))


async def listed(request: Request, state: str | None = None) -> list[tuple[float, str]]:
    """(when it came, id) of this client's jobs in that state, newest first. Raises ApiError 503."""
    queue = service_of(request).job_queue
    if queue is None:
        return []
    with answering():
        ids = await queue.ids(_client(request))
        states = await queue.states([id for id, _ in ids])
    return [(when, id) for id, when in ids if id in states and state in (None, states[id])]


async def jobs(request: Request, ids: list[str], answers: bool = False) -> dict[str, QueuedJob]:
    """By id. Raises ApiError 503."""
    queue = service_of(request).job_queue
    if queue is None or not ids:
        return {}
    with answering():
        return {job.id: job for job in await queue.jobs(ids, answers)}


def _client(request: Request) -> str | None:
    client: Any = request.scope["state"].get("client")
    return client if client is None else str(client)
