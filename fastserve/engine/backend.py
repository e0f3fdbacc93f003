"""LiveExecutor: what a body must be for the loop to drive it."""

from __future__ import annotations

from typing import Protocol

from fastserve.engine.request import Piece, Request
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan


class LiveExecutor(Protocol):
    """The brain's Executor, and what a server needs besides.

    run() does one iteration and puts the tokens of it into `produced`. What one request does wrong fails that request
    alone. It raises MemoryError when the device has no room for the step, anything else when the step itself failed,
    and does so before any request has accepted a token; its KV is then as it may be, until reset() has made it empty.
    """

    produced: list[tuple[Request, Piece]]  # of the last run, in order; each request's last piece says how it ended
    model_ns: int  # so far, inside the model or waiting for it
    waited_ns: int  # so far, for copies; the rest of an iteration is the host's own work

    def run(self, plan: Plan) -> Outcome: ...
    def admit(self, job: Job, request: Request) -> None: ...  # before Scheduler.submit
    def forget(self, job: Job) -> None: ...  # after it departed; copies under way are respected
    def reset(self) -> None: ...  # all KV is gone, no copy is under way; the requests stay
    def close(self) -> None: ...
