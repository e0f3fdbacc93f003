"""The loop: one thread that owns the Scheduler and the executor.

A turn is: drain the inbox (arrivals by (arrival, id), then cancels), plan, run, commit, hand out; nothing else calls
the Scheduler. Idle, it rests on the inbox and never polls. It knows neither torch nor whether its clock is a real one.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import Any, Protocol

from fastserve.engine.clock import Clock
from fastserve.engine.inbox import Inbox
from fastserve.engine.request import Piece, Request
from fastserve.engine.watch import Watch
from fastserve.flight import FlightLog
from fastserve.records import Recorder
from fastserve.sched.errors import PolicyError, RefusedError
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.scheduler import Scheduler

log = logging.getLogger("fastserve")

FINISHES = ("stop", "length", "cancelled", "timeout", "error")


class LiveExecutor(Protocol):
    """The brain's Executor, and what a server needs besides.

    run() does one iteration and puts the tokens of it into `produced`. What one request does wrong fails that request
    alone. It raises MemoryError when the device has no room for the step, anything else when the step itself failed,
    and does so before any request has accepted a token; its KV is then as it may be, until reset() has made it empty.
    """

    produced: list[tuple[Request, Piece]]  # of the last run, in order; each request's last piece says how it ended
    model_ns: int  # so far, inside the model or waiting for it: the rest is the host's own work

    def run(self, plan: Plan) -> Outcome: ...
    def admit(self, job: Job, request: Request) -> None: ...  # before Scheduler.submit
    def forget(self, job: Job) -> None: ...  # after it departed; copies under way are respected
    def reset(self) -> None: ...  # all KV is gone, no copy is under way; the requests stay
    def close(self) -> None: ...


class Loop:
    """recorder: its rows must reach Request.record, see row(). flight: everything the Scheduler was told, or None."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: LiveExecutor,
        recorder: Recorder,
        clock: Clock,
        inbox: Inbox,
        flight: FlightLog | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.recorder = recorder
        self.clock = clock
        self.inbox = inbox
        self.flight = flight
        self.watch = Watch(scheduler)
        self.requests: dict[Job, Request] = {}  # admitted, and not ended
        self.now = 0  # ns: the boundary at which the loop stands
        self.alive = True
        self.error: str | None = None
        self.steps = 0
        self.counters: dict[str, int] = {"requests": 0, "prompt_tokens": 0, "output_tokens": 0, "preemptions": 0,
                                         "oom": 0, "failed_steps": 0, "slots": scheduler.slots}  # fmt: skip
        self.counters.update({f"finished_{reason}": 0 for reason in FINISHES})
        self.busy_ns = 0  # in turns that ran something
        self.scheduler_ns = 0  # of these, in the Scheduler and its policy
        self._committed = 0  # when the last commit was over
        recorder.watch = self.row

    def run(self) -> None:
        """Until the inbox is closed, or the Scheduler or its policy breaks; then whoever is left is told."""
        try:
            while not self.inbox.closed:
                if not self.turn():
                    self.rest()
        except Exception as error:
            self.error = str(error) or type(error).__name__
            log.error("the engine has stopped: %s", self.error, exc_info=error)
        self.alive = False
        self.inbox.close()
        reason, text = ("cancelled", "the engine was closed") if self.error is None else ("error", self.error)
        left = list(self.requests.values())
        if self.error is not None:
            self.requests.clear()  # a Scheduler whose policy has broken is told no more
        for request in [*left, *self.inbox.waiting()]:
            if request.over:
                continue
            try:
                self._cancel(request, reason, self.now, text)
            except PolicyError as error:
                self.requests.clear()
                self._hand_out(request, request.end("error", str(error)))
        if self.flight is not None:
            self.flight.close()

    def rest(self) -> None:
        """Nothing to do until something comes, or admission opens by itself."""
        self.inbox.rest(self.clock, self.scheduler.opens_at())
        self.now = self.clock.now()

    def turn(self) -> bool:
        """One iteration; False if there is nothing to do."""
        if not self.inbox.empty:
            self.drain()
        began = perf_counter_ns()
        scheduler = self.scheduler
        plan = scheduler.plan(self.now)
        planned = perf_counter_ns()
        if self.flight is not None and scheduler.live:
            self.flight.planned(self.now, plan)
        if plan is None:
            return False
        if self.watch.looked_at:
            self.watch.planned(plan)
        try:
            outcome = self.executor.run(plan)
        except MemoryError as error:
            self._too_large(plan, error)
            return True
        except Exception as error:
            self._failed(plan, error)
            return True
        ran = perf_counter_ns()
        self._commit(plan, outcome)
        self.steps += 1
        self.scheduler_ns += planned - began + self._committed - ran
        self.busy_ns += perf_counter_ns() - began
        return True

    def _commit(self, plan: Plan, outcome: Outcome) -> None:
        now = self.now = self.clock.now()
        outcome.first = now - plan.now
        outcome.service = outcome.first - outcome.stall
        if self.flight is not None:
            self.flight.committed(now, outcome)
        finished = self.scheduler.commit(plan, outcome, now)
        self._committed = perf_counter_ns()
        self.counters["preemptions"] += len(plan.left)
        produced = self.executor.produced
        self.counters["output_tokens"] += sum([piece.token_id is not None for _, piece in produced])
        for job in finished:
            self._finish(job, produced)
        self.watch.seats.follow(plan)
        self.recorder.commit(plan, outcome, finished, now)
        if self.watch.looked_at:
            self.watch.committed(plan, finished, now)
        for job in finished:
            self.executor.forget(job)
            self.watch.seats.leave(job)
            del self.requests[job]
        for request, piece in produced:
            piece.at_ns = now
            self._hand_out(request, piece)

    def _finish(self, job: Job, produced: list[tuple[Request, Piece]]) -> None:
        """The executor has ended it; or it outgrew the pool, and the Scheduler has cut it after its last token."""
        request = self.requests[job]
        if not request.finish_reason:
            last = next(piece for owner, piece in produced if owner is request)
            end = request.end(job.finish)
            last.text += end.text
            last.finish_reason = end.finish_reason
        job.finish = request.finish_reason

    # -- what comes from outside -----------------------------------------------------------------------------------

    def drain(self) -> None:
        now = self.now
        came = [request for request in self.inbox.arrived(now) if not request.finish_reason]
        self.requests.update([(request.job, request) for request in came])  # from here on the loop answers for them
        for request in came:
            self._submit(request, now)
        for request, reason in self.inbox.cancelled(now):
            self._cancel(request, reason, now)
        for question, future in self.inbox.asked():
            try:
                future.set_result(question())
            except Exception as error:
                future.set_exception(error)

    def _submit(self, request: Request, now: int) -> None:
        job = request.job
        try:
            self.executor.admit(job, request)
        except Exception as error:
            del self.requests[job]
            self._hand_out(request, request.end("error", f"{type(error).__name__}: {error}"))
            return
        if self.flight is not None:
            self.flight.submitted(now, job)
        try:
            self.scheduler.submit(job, now)
        except RefusedError as error:
            self.executor.forget(job)
            self.recorder.reject(job)
            del self.requests[job]
            self._hand_out(request, request.end("error", str(error)))
            return
        self.counters["requests"] += 1
        self.counters["prompt_tokens"] += job.prompt
        if self.watch.looked_at:
            self.watch.arrived(job, now)

    def _cancel(self, request: Request, reason: str, now: int, error: str | None = None) -> None:
        job = request.job
        piece = request.end(reason, error)
        piece.at_ns = now
        if job in self.requests:
            if self.flight is not None:
                self.flight.cancelled(now, job)
            self.scheduler.cancel(job, now)
            self.executor.forget(job)
            self.watch.seats.leave(job)
            job.finish = reason
            self.recorder.cancel(job, now)
            del self.requests[job]
            if self.watch.looked_at:
                self.watch.ended(job, now)
        self._hand_out(request, piece)

    def _hand_out(self, request: Request, piece: Piece) -> None:
        if piece.finish_reason:
            name = f"finished_{piece.finish_reason}"
            self.counters[name] = self.counters.get(name, 0) + 1
        try:
            request.hand_out(piece)
        except Exception as error:
            log.warning("request %d: its listener raised and is not called again: %r", request.job.id, error)

    def row(self, job: Job, row: dict[str, Any]) -> None:
        """The Recorder has made a job's record."""
        request = self.requests.get(job)
        if request is not None:
            request.record = row

    # -- when a step fails -----------------------------------------------------------------------------------------

    def _too_large(self, plan: Plan, error: MemoryError) -> None:
        """The device has no room for the step: from now on at most half as many jobs share one."""
        self.counters["oom"] += 1
        jobs = [job for job, _ in plan.work]
        if len(jobs) < 2:
            log.warning("out of memory for one request alone, which fails: %s", error)
            self._start_over(jobs, f"out of memory: {error}")
            return
        self._start_over([], "")
        slots = min(self.scheduler.slots, len(jobs)) // 2
        log.warning("out of memory in a step of %d requests: the batch cap falls to %d (%s)", len(jobs), slots, error)
        self.scheduler.resize(slots)
        self.counters["slots"] = slots
        if self.flight is not None:
            self.flight.resized(self.now, slots)

    def _failed(self, plan: Plan, error: Exception) -> None:
        self.counters["failed_steps"] += 1
        jobs = [job for job, _ in plan.work]
        log.error("a step of %d requests failed, and they with it: %r", len(jobs), error, exc_info=error)
        self._start_over(jobs, f"{type(error).__name__}: {error}")

    def _start_over(self, failed: list[Job], why: str) -> None:
        """The failed plan is thrown away and all KV with it: every other job computes its own again."""
        now = self.now = self.clock.now()
        self.executor.reset()
        if self.flight is not None:
            self.flight.forgot(now)
        lost = self.scheduler.forget_all(now)
        self.recorder.evicted(lost, now)
        self.counters["preemptions"] += len(lost)
        self.watch.seats.clear()
        for job in failed:
            self._cancel(self.requests[job], "error", now, why)
