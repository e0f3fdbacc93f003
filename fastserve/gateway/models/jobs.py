"""Jobs: loads that somebody asked for, with what came of them. A load downloads the model first if it has to."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Final

MOST_RUNNING: Final = 16
MOST_OF_CLIENT: Final = 4
"""Jobs at a time, of all and of a client."""
KEPT: Final = 100
"""Jobs that have ended, and can still be asked about."""

RUNNING: Final = ("queued", "downloading", "starting")


class TooManyJobsError(RuntimeError):
    """A bound is reached: 429 of a client, 503 of all. of_client: which."""

    def __init__(self, message: str, of_client: bool) -> None:
        super().__init__(message)
        self.of_client = of_client


class Job:
    """state: queued, downloading, starting, finished, failed or cancelled. total, done: bytes of its download."""

    def __init__(self, model: str, client: str, load: bool) -> None:
        self.id = uuid.uuid4().hex
        self.model, self.client, self.load = model, client, load
        self.state = "queued"
        self.message = ""
        self.total: int | None = None
        self.done: int | None = None
        self.created = time.time()
        self.ended: float | None = None
        self.task: asyncio.Task[None]

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    def shown(self) -> dict[str, Any]:
        """With the names that clients of other managers read: uuid, processed, file_size (LocalAI)."""
        share = self.done / self.total if self.total and self.done is not None else None
        progress = 100.0 if self.state == "finished" else 0.0 if share is None else round(100 * share, 1)
        return {
            "job_id": self.id,
            "uuid": self.id,
            "model_id": self.model,
            "state": self.state,
            "status": f"/models/jobs/{self.id}",
            "processed": not self.running,
            "progress": progress,
            "completed": self.done,
            "total": self.total,
            "downloaded_size": self.done,
            "file_size": self.total,
            "message": self.message or self.state,
            "error": self.message if self.state in ("failed", "cancelled") else None,
            "created": round(self.created, 3),
            "ended": None if self.ended is None else round(self.ended, 3),
        }


class Jobs:
    """work: does a job, and raises what is wrong in words for people; it may set state, total and done."""

    def __init__(self, work: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        self.work = work
        self.by_id: dict[str, Job] = {}

    def begin(self, model: str, client: str, *, load: bool = True) -> Job:
        """The job that does the same already, or a new one. Raises TooManyJobsError."""
        running = [job for job in self.by_id.values() if job.running]
        for job in running:
            if (job.model, job.client, job.load) == (model, client, load):
                return job
        if sum(job.client == client for job in running) >= MOST_OF_CLIENT:
            raise TooManyJobsError(f"{MOST_OF_CLIENT} loads of yours are running: wait for one, or cancel it", True)
        if len(running) >= MOST_RUNNING:
            raise TooManyJobsError(f"{MOST_RUNNING} loads are running: try again later", False)
        job = Job(model, client, load)
        self.by_id[job.id] = job
        job.task = asyncio.create_task(self._run(job))
        return job

    def cancel(self, job: Job) -> None:
        """What others want, too, goes on: a shared download, a start."""
        if job.running:
            job.task.cancel()
            if job.state == "queued":  # its task may not have begun, and then never does
                job.state, job.message, job.ended = "cancelled", "cancelled", time.time()

    async def close(self) -> None:
        tasks = [job.task for job in self.by_id.values() if job.running]
        for job in list(self.by_id.values()):
            self.cancel(job)
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, job: Job) -> None:
        try:
            await self.work(job)
            job.state = "finished"
        except asyncio.CancelledError:
            job.state, job.message = "cancelled", "cancelled"
        except Exception as error:
            job.state, job.message = "failed", str(error) or type(error).__name__
        finally:
            job.ended = time.time()
            done = [each.id for each in self.by_id.values() if not each.running]
            for old in done[:-KEPT]:
                del self.by_id[old]
