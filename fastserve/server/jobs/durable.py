"""Durable jobs: on disk before their client hears that they are taken, and run until they have an end of their own."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from fastserve.engine import Output, SamplingParams
from fastserve.server.api.errors import ApiError
from fastserve.server.jobs.jobs import Scheduling, ServedJob, new_id
from fastserve.server.jobs.store import Row, Store, StoreError

log = logging.getLogger("fastserve.server")

ATTEMPTS = 3
"""A durable job with which so many steps failed is taken to be their cause."""


class Plea(NamedTuple):
    """What a durable job asks of the engine. model: the engine's name of it, for token ids mean nothing elsewhere.

    scheduling: its spans count from when the engine takes it, after a restart anew. attempts: steps that failed with it
    in earlier runs of the server.
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
        return fields

    @staticmethod
    def of(fields: dict[str, Any]) -> Plea:
        """Raises KeyError, TypeError or ValueError for what to_json() did not make."""
        scheduling = {name: fields[name] for name in Scheduling._fields if name in fields}
        rest = {name: value for name, value in fields.items() if name not in scheduling}
        return Plea(**{**rest, "params": SamplingParams(**rest["params"]), "scheduling": Scheduling(**scheduling)})


Submit = Callable[[ServedJob, Plea, bool], None]
"""(job, plea, beyond the bound of the queue) -> the engine has it. Raises ApiError 400 or 503."""


class Durable:
    """model: the engine's name of what is served.

    A failed step takes all its requests with it, and any of them, or the device, may be the cause. So a durable job
    that it took is tried again, one at a time: once when nothing else runs, otherwise when another request has ended
    well or the server is started again. A device that has died thus uses up no job's last attempt.
    """

    def __init__(self, store: Store, model: str, submit: Submit) -> None:
        self.store = store
        self.model = model
        self.submit = submit
        self.pleas: dict[str, Plea] = {}  # of jobs that the engine has, or will be given again
        self.parked: deque[ServedJob] = deque()  # a step failed with them
        self.trial: ServedJob | None = None  # the one of them that was given to the engine again

    async def enqueue(self, client: str, served: str, plea: Plea) -> ServedJob:
        """A job that is on disk when this returns. Raises ApiError 400 or 503, and then it is not.

        served: the model's name for clients. A plea without a seed gets one, so that running it again gives the same.
        """
        if plea.params.seed is None:
            plea = plea._replace(params=replace(plea.params, seed=secrets.randbits(63)))
        job = ServedJob(new_id(), client, "job", served, len(plea.prompt), plea.metadata, durable=True)
        try:
            await self.store.add(job.id, client, job.created, plea.to_json())
        except StoreError as error:
            raise ApiError(503, f"the job cannot be stored, so it was not taken: {error}", retry_after=30) from error
        try:
            self._run(job, plea, False)
        except ApiError:
            self.store.remove(job.id)
            raise
        return job

    def restore(self, row: Row, served: str) -> ServedJob:
        """A job of an earlier run: one that had ended answers as before, any other runs again.

        A job for another model stays queued until that is served from this folder; one that can never run has failed.
        """
        fields = row.request
        model = fields.get("model")
        job = ServedJob(
            row.id, row.client, "job", served if model == self.model else str(model), len(fields.get("prompt", ())),
            fields.get("metadata", {}), durable=True, created=row.created,
        )  # fmt: skip
        if row.ended is not None and row.state is not None:
            job.ended, job.state = row.ended, row.state
            job.answer, job.error = (row.answer["answer"], row.answer["error"]) if row.answer else (None, None)
            return job
        if model != self.model:
            job.error = f"this job waits until model {model} is served again from this state folder"
            return job
        try:
            plea = Plea.of(fields)
            if plea.attempts:
                job.attempts = plea.attempts
                self._park(job, plea, " in an earlier run of the server")
            else:
                self._run(job, plea, True)
        except (KeyError, TypeError, ValueError) as error:
            self.end(job, "failed", f"what is stored of this job cannot be read: {error}")
        except ApiError as error:
            if error.status == 503:
                job.error = f"{error.message}; this job goes on after a restart"
            else:
                self.end(job, "failed", error.message)
        return job

    def lost_its_step(self, job: ServedJob, why: str) -> bool:
        """Whether a job that failed with its step stays queued, to be tried again."""
        job.attempts += 1
        if job.attempts >= ATTEMPTS:
            return False
        self.store.attempted(job.id, job.attempts)
        self._park(job, self.pleas[job.id], f" ({why})")
        return True

    def try_again(self, well: bool, idle: bool) -> None:
        """One parked job, if it may run now. well: the engine has shown that it works; idle: it has nothing to do."""
        if self.trial is not None and self.trial.handle is not None:
            return
        job = next((job for job in self.parked if well or (idle and job.attempts < ATTEMPTS - 1)), None)
        if job is None:
            return
        try:
            self._run(job, self.pleas[job.id], True)
        except ApiError as error:
            if error.status == 503:  # the engine has stopped: a restart goes on from here
                return
            self.end(job, "failed", error.message)
            return
        job.error = None
        self.parked.remove(job)
        self.trial = job

    def _run(self, job: ServedJob, plea: Plea, beyond_capacity: bool) -> None:
        self.submit(job, plea, beyond_capacity)
        self.pleas[job.id] = plea

    def _park(self, job: ServedJob, plea: Plea, which: str) -> None:
        job.error = (
            f"a step of the engine failed{which}, and this job with it; it goes on when another request has ended "
            "well, or when the server is started again"
        )
        self.pleas[job.id] = plea
        self.parked.append(job)

    def end(self, job: ServedJob, state: str, error: str | None) -> None:
        """It ends without the engine's help."""
        job.ended, job.state, job.error = time.time(), state, error
        self.write(job)

    def write(self, job: ServedJob) -> None:
        """How it ended."""
        assert job.ended is not None
        self.pleas.pop(job.id, None)
        if job in self.parked:
            self.parked.remove(job)
        self.store.end(job.id, job.state, {"answer": job.answer, "error": job.error}, job.ended)


def interrupted(output: Output, error: str | None) -> bool:
    """Whether this output of an engine that has stopped is no end of the job's own. error: what stopped the engine."""
    if output.error is None:
        return False  # its client cancelled it, or it was done
    return output.finish_reason == "cancelled" or (output.finish_reason == "error" and output.error == error)
