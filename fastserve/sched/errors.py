"""What goes wrong, and who has to change something."""

from __future__ import annotations

from fastserve.sched.job import Job
from fastserve.sched.policy import Policy


class RefusedError(ValueError):
    """A job that this Scheduler can never serve; the message says why."""


class PolicyError(RuntimeError):
    """A policy broke: the message names the policy, its method, the job and the time."""

    def __init__(self, policy: Policy, method: str, job: Job | None, cause: BaseException | str) -> None:
        who = f" of job {job.id}" if job is not None else ""
        what = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(f"policy {type(policy).__name__}, {method}(){who} at {policy.now / 1e9:.6f} s: {what}")
        self.policy = policy
        self.method = method
        self.job = job


class ObserverError(RuntimeError):
    """An observer broke: the message names it, its method and what it raised."""

    def __init__(self, observer: object, method: str, cause: BaseException) -> None:
        super().__init__(f"observer {type(observer).__name__}, {method}(): {type(cause).__name__}: {cause}")
        self.observer = observer
        self.method = method
