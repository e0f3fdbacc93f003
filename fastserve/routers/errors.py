"""RouterError: a router broke."""

from __future__ import annotations

from fastserve.sched.job import Job


class RouterError(RuntimeError):
    """A router broke: the message names the router, its method and the job."""

    def __init__(self, router: object, method: str, job: Job | None, cause: BaseException | str) -> None:
        who = f" of job {job.id}" if job is not None else ""
        what = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(f"router {type(router).__name__}, {method}(){who}: {what}")
        self.router = router
        self.method = method
        self.job = job
