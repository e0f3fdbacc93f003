"""Durable jobs: stored on disk before they are accepted, resumed after a restart, retried when an engine step fails."""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from fastserve.engine import Output, SamplingParams
from fastserve.server.api.errors import ApiError
from fastserve.server.http.ids import new_id
from fastserve.server.jobs.jobs import Scheduling, ServedJob
from fastserve.server.jobs.rows import Row
from fastserve.server.jobs.store import Store, StoreError

log = logging.getLogger("fastserve.server")

ATTEMPTS = 3
"""A durable job fails after so many failed steps: it is then presumed to be their cause."""


class JobRequest(NamedTuple):
    """The stored request of a durable job. model: the engine's name of it; token ids are of its vocabulary.

    scheduling: its times count from submission to the engine, anew after a restart. attempts: steps that failed with
    it in earlier runs of the server.
    """

    model: str
    prompt: list[int]
    params: SamplingParams
    metadata: dict[str, Any]
    scheduling: Scheduling
    attempts: int = 0

    def to_json(self) -> dict[str, Any]:
        fields = self._asdict() | self.scheduling._asdict() | {"params": asdict(self.params)}
        del fields["scheduling"]
        if not self.scheduling.adapter:
            del fields["adapter"]
        return fields

    @staticmethod
    def of(fields: dict[str, Any]) -> JobRequest:
        """The inverse of to_json(). Raises KeyError, TypeError or ValueError for other fields."""
        scheduling = Scheduling(**{name: fields[name] for name in Scheduling._fields if name in fields})
        rest = {name: value for name, value in fields.items() if name not in Scheduling._fields}
        request = JobRequest(**{**rest, "params": SamplingParams(**rest["params"]), "scheduling": scheduling})
        request.check()
        return request

    def check(self) -> None:
        """What SamplingParams does not: types, which a policy relies upon. Raises ValueError."""
        own = self.scheduling
        numbers = [*self.prompt, own.priority, self.attempts] if isinstance(self.prompt, list) else [None]
        times = [span for span in (own.deadline_s, own.ttft_slo_s, own.tpot_slo_s) if span is not None]
        right = {
            "model": isinstance(self.model, str),
            "prompt, priority or attempts": all(type(number) is int for number in numbers),
            "metadata": isinstance(self.metadata, dict),
            "program, tool, calls, cache_salt or adapter": all(
                isinstance(text, str) for text in (own.program, own.tool, own.calls, own.cache_salt, own.adapter)
            ),
            "final": isinstance(own.final, bool),
            "deadline_s, ttft_slo_s or tpot_slo_s": all(
                type(at) in (int, float) and 0 <= at < math.inf for at in times
            ),
        }
        if wrong := [name for name, well in right.items() if not well]:
            raise ValueError(f"{wrong[0]} of another type than it can have")


Submit = Callable[[ServedJob, JobRequest, bool], None]
"""(job, request, beyond_capacity): submits it to the engine. Raises ApiError 400 or 503."""


class Durable:
    """model: the engine's name of the served model.

    A failed step fails all its requests, and any of them, or the device, may be the cause. So its durable jobs are
    retried one at a time: once when nothing else runs, otherwise when another request has succeeded or the server is
    restarted. A device that has died thus does not use up the last attempt of any job.
    """

    def __init__(self, store: Store, model: str, submit: Submit) -> None:
        self.store = store
        self.model = model
        self.submit = submit
        self.requests: dict[str, str] = {}  # as JSON: of jobs in the engine or to be retried
        self.failed: deque[ServedJob] = deque()  # jobs of failed steps, to be retried
        self.waiting: list[ServedJob] = []  # jobs of earlier runs whose adapter is not loaded
        self.retried: ServedJob | None = None  # the one that was submitted again

    async def enqueue(self, client: str, served: str, request: JobRequest) -> ServedJob:
        """Stores and submits a job: on disk when this returns. Raises ApiError 400 or 503, and then it is not stored.

        served: the model's name for clients. A request without a seed gets one, so that a retry gives equal output.
        """
        if request.params.seed is None:
            request = request._replace(params=replace(request.params, seed=secrets.randbits(63)))
        job = ServedJob(new_id(), client, "job", served, len(request.prompt), request.metadata, durable=True,
                        adapter=request.scheduling.adapter)  # fmt: skip
        stored = json.dumps(request.to_json(), separators=(",", ":"))
        try:
            await self.store.add(job.id, client, job.created, stored)
        except StoreError as error:
            raise ApiError(503, f"the job cannot be stored, so it was not accepted: {error}", retry_after=30) from error
        try:
            self._run(job, request, stored, beyond_capacity=False)
        except ApiError:
            self.store.remove(job.id)
            raise
        return job

    def restore(self, row: Row, served: str) -> ServedJob:
        """A job of an earlier run: one that had ended keeps its result, any other is submitted again.

        A job of another model stays queued until that model is served from this folder, one whose adapter is not
        loaded until it is; an invalid one fails.
        """
        fields = row.request
        model, prompt, metadata = fields.get("model"), fields.get("prompt"), fields.get("metadata")
        adapter = str(fields.get("adapter") or "")
        served = adapter or served
        job = ServedJob(
            row.id, row.client, "job", served if model in (self.model, None) else str(model),
            len(prompt) if isinstance(prompt, list) else 0, metadata if isinstance(metadata, dict) else {},
            durable=True, created=row.created, adapter=adapter,
        )  # fmt: skip
        if row.ended is not None and row.state is not None:
            job.ended, job.state = row.ended, row.state
            job.answer, job.error = (row.answer["answer"], row.answer["error"]) if row.answer else (None, None)
            return job
        if isinstance(model, str) and model != self.model:
            job.error = f"this job stays queued until model {model} is served again from this state folder"
            return job
        try:
            request = JobRequest.of(fields)
            stored = json.dumps(fields, separators=(",", ":"))
            if request.attempts:
                job.attempts = request.attempts
                self._schedule_retry(job, stored, " in an earlier run of the server")
            else:
                self._run(job, request, stored, beyond_capacity=True)
        except (KeyError, TypeError, ValueError) as error:
            what = f"the stored request of this job cannot be read: {type(error).__name__}: {error}"
            log.error("job %s: %s", job.id, what)
            self.end(job, "failed", what)
        except ApiError as error:
            if error.status == 503:
                job.error = f"{error.message}; this job is resumed after a restart"
            elif error.status == 404:
                job.error = f"this job stays queued until adapter {adapter} is loaded again"
                job.stored = len(stored)
                self.requests[job.id] = stored
                self.waiting.append(job)
            else:
                self.end(job, "failed", error.message)
        return job

    def step_failed(self, job: ServedJob, error: str) -> bool:
        """Counts a failed step of this job; whether the job stays queued, to be retried."""
        job.attempts += 1
        if job.attempts >= ATTEMPTS:
            return False
        self.store.attempted(job.id, job.attempts)
        self._schedule_retry(job, self.requests[job.id], f" ({error})")
        return True

    def retry_one(self, well: bool, idle: bool) -> None:
        """Submits one job of a failed step again, if it may run now. well: a request has succeeded; idle: none runs."""
        if self.retried is not None and self.retried.handle is not None:
            return
        job = next((job for job in self.failed if well or (idle and job.attempts < ATTEMPTS - 1)), None)
        if job is None:
            return
        stored = self.requests[job.id]
        try:
            self._run(job, JobRequest.of(json.loads(stored)), stored, beyond_capacity=True)
        except ApiError as error:
            if error.status == 503:  # the engine has stopped: a restart resumes the job
                return
            self.end(job, "failed", error.message)
            return
        job.error = None
        self.failed.remove(job)
        self.retried = job

    def resume_waiting(self) -> None:
        """An adapter has been loaded: its jobs of earlier runs are submitted."""
        for job in list(self.waiting):
            stored = self.requests[job.id]
            try:
                self._run(job, JobRequest.of(json.loads(stored)), stored, beyond_capacity=True)
            except ApiError as error:
                if error.status in (404, 503):  # of another adapter; or a restart resumes it
                    continue
                self.end(job, "failed", error.message)
                continue
            job.error = None
            self.waiting.remove(job)

    def _run(self, job: ServedJob, request: JobRequest, stored: str, *, beyond_capacity: bool) -> None:
        job.stored = len(stored)
        self.submit(job, request, beyond_capacity)
        self.requests[job.id] = stored

    def _schedule_retry(self, job: ServedJob, stored: str, which: str) -> None:
        job.error = (
            f"a step of the engine failed{which}, and this job with it; it is retried when another request has "
            "succeeded, or when the server is restarted"
        )
        job.stored = len(stored)
        self.requests[job.id] = stored
        self.failed.append(job)

    def end(self, job: ServedJob, state: str, error: str | None) -> None:
        """Ends a job that the engine does not hold."""
        job.end(state, error)
        self.write(job)

    def write(self, job: ServedJob) -> None:
        """Stores the end of a job."""
        assert job.ended is not None
        self.requests.pop(job.id, None)
        job.stored = 0
        for jobs in (self.failed, self.waiting):
            if job in jobs:
                jobs.remove(job)
        self.store.end(job.id, job.state, {"answer": job.kept_answer, "error": job.error}, job.ended)


def interrupted(output: Output, error: str | None) -> bool:
    """Whether this output ended only because the engine stopped. error: what stopped the engine."""
    if output.error is None:
        return False  # cancelled by its client, or finished
    return output.finish_reason == "cancelled" or (output.finish_reason == "error" and output.error == error)
