"""Jobs of the queue across machines (--queue) on the gateway's routes: /jobs and the names of task queues.

What runs them is `fastserve worker`, against this gateway or any other server: there the request is checked, by the
server that has the model, so one that is wrong is accepted here and fails there, and the job says why.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from fastserve.gateway.api.generate import call_of, known_client
from fastserve.gateway.call import Call, Stage
from fastserve.gateway.core import DRAINING, Core
from fastserve.gateway.health import LONGEST_NAME
from fastserve.jobqueue.jobs import JobQueue
from fastserve.jobqueue.record import MOST_TASKS, QueuedJob, Task
from fastserve.server.api.errors import ApiError, Json
from fastserve.server.api.fields import kept_json
from fastserve.server.api.queue_errors import answering

TAGS: list[Any] = ["Jobs"]
State = Literal["queued", "running", "preempted", "finished", "cancelled", "failed"]


class JobsPart:
    """A Part without a stage. Raises MissingPackageError."""

    name = "queue"

    def __init__(self, gateway: Core) -> None:
        self.gateway = gateway
        self.queue = JobQueue(gateway.config)
        self.accepted = 0
        self.stage: Stage | None = None
        router = APIRouter(tags=TAGS)
        for path, method, route in (
            ("/jobs", "POST", self.submit), ("/jobs", "GET", self.listed), ("/jobs/{job_id}", "GET", self.job),
            ("/jobs/{job_id}", "DELETE", self.cancel), ("/send_text", "POST", self.send_text),
            ("/get_task_status/{task_id}", "GET", self.task), ("/poll_task_status", "GET", self.task),
            ("/tasks/", "GET", self.tasks),
        ):  # fmt: skip
            router.add_api_route(path, route, methods=[method], response_model=None)
        self.router: APIRouter | None = router

    async def start(self) -> None:
        await self.queue.check()

    async def stop(self) -> None:
        await self.queue.close()

    def status(self) -> dict[str, Any]:
        return {"at": self.queue.shown, "accepted": self.accepted}

    async def submit(self, request: Request) -> Response:
        """A durable job: in Redis before this answers."""
        call = await call_of(request)
        job = await self._accepted(call, call.fields)
        where = f"{request.scope.get('root_path', '')}/jobs/{job.id}"
        return Json({"job_id": job.id, "state": job.state}, 202, {"Location": where})

    async def send_text(self, request: Request) -> Response:
        call = await call_of(request)
        fields = call.fields or {}
        given = {"prompt": fields.get("prompt", fields.get("text")), "model": call.model}
        job = await self._accepted(call, {**given, "user": fields.get("user")})
        return Json({"task_id": job.id})

    async def _accepted(self, call: Call, fields: dict[str, Any] | None) -> QueuedJob:
        gateway = self.gateway
        if gateway.draining:
            raise ApiError(503, DRAINING, retry_after=gateway.config.drain_seconds)
        if fields is None:
            raise ApiError(422, "the body has to be a JSON object")
        prompt = fields.get("prompt")
        if not prompt or not (isinstance(prompt, str) or _are_ids(prompt)):
            raise ApiError(422, "prompt: it must be text of at least one character, or a list of token ids")
        if fields.get("stream"):
            raise ApiError(400, "a job does not stream; poll GET /jobs/{id}, or use /generate/stream")
        metadata = fields.get("metadata")
        try:
            kept_json(metadata if isinstance(metadata, dict) else {})
        except ValueError as error:
            raise ApiError(422, f"metadata: {error}") from None
        model = call.model or gateway.default_model
        if len(model) > LONGEST_NAME:
            raise ApiError(404, f"no model has a name of more than {LONGEST_NAME} characters", param="model")
        if not model:
            raise ApiError(503, "no upstream has told its models yet, and the job names none", retry_after=5)
        gateway.limits.admit(call.client, len(call.body) // 4)
        rest = {name: value for name, value in fields.items() if value is not None and name != "model_name"}
        with answering():
            job = await self.queue.submit({**rest, "model": model}, client=call.client, model=model)
        self.accepted += 1
        return job

    async def listed(
        self, request: Request, state: State | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str | None, Query(max_length=256)] = None,
    ) -> Response:  # fmt: skip
        """This client's jobs, newest first, without their results."""
        with answering():
            found = await self.queue.listed(known_client(request), state, limit, after)
        if found is None:
            raise _unknown(str(after))
        return Json({"jobs": [job.summary() for job in found.jobs], "total": found.total, "next": found.next})

    async def job(self, request: Request, job_id: str) -> Response:
        return Json((await self._found(request, job_id)).view())

    async def cancel(self, request: Request, job_id: str) -> Response:
        """A job that has ended stays as it is."""
        with answering():
            found = await self.queue.cancel(job_id, known_client(request))
        if found is None:
            raise _unknown(job_id)
        return Json(found.view())

    async def task(self, request: Request, task_id: str) -> Task:
        return (await self._found(request, task_id)).task()

    async def tasks(self, request: Request) -> list[Task]:
        """The newest ones."""
        with answering():
            ids = [id for id, _ in await self.queue.ids(known_client(request))]
            return [job.task() for job in await self.queue.jobs(ids[:MOST_TASKS], answers=True)]

    async def _found(self, request: Request, job_id: str) -> QueuedJob:
        with answering():
            found = await self.queue.find(job_id, known_client(request))
        if found is None:
            raise _unknown(job_id)
        return found


def _are_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(type(each) is int for each in prompt)


def _unknown(job_id: str) -> ApiError:
    return ApiError(404, f"there is no job {job_id!r}; finished ones are kept for a while only")


def make(gateway: Core) -> JobsPart | None:
    """For app.PARTS."""
    return None if gateway.config.queue is None else JobsPart(gateway)
