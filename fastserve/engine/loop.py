"""The loop: one thread that owns the Scheduler and the body.

A turn is: drain the inbox (arrivals by (arrival, id), then cancels), plan, run, commit, hand out; nothing else calls
the Scheduler. Idle, it rests on the inbox and never polls. It knows neither torch nor whether its clock is a real one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any, cast

from fastserve.engine.backend import Adapting, Backend, Sharing, Step
from fastserve.engine.clock import Clock
from fastserve.engine.inbox import Inbox
from fastserve.engine.output_processor import OutputProcessor
from fastserve.engine.recovery import Recovery
from fastserve.engine.request import Piece, Request
from fastserve.engine.unit_names import UnitNames
from fastserve.metrics.finish import COMPLETED, TRUNCATED
from fastserve.metrics.records import Recorder
from fastserve.sched.errors import ObserverError, PolicyError, RefusedError
from fastserve.sched.job import Copy, Job
from fastserve.sched.observer import Observers
from fastserve.sched.plan import Plan, Transfer
from fastserve.sched.prefix import PrefixScheduler
from fastserve.sched.scheduler import Scheduler

log = logging.getLogger("fastserve")

FINISHES = (*COMPLETED, *TRUNCATED, "cancelled")
"""Words for how a live job finishes; a cancel may have another, its reason."""


class Loop:
    """recorder: an Observer like others, but told always and first; its rows must reach Request.record, see row().

    about: what run it is, for observers. names: of units, where prefixes are cached; the backend then is a Sharing.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        backend: Backend,
        recorder: Recorder,
        clock: Clock,
        inbox: Inbox,
        about: Mapping[str, Any] | None = None,
        names: UnitNames | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.backend = backend
        self.recorder = recorder
        self.clock = clock
        self.inbox = inbox
        self.observers = Observers(scheduler, about, _broken)
        self._planned_at = 0  # ns: when observers were told of the last plan
        self._copies: dict[Copy, int] = {}  # under way: ns, the boundary of the plan that asked for it
        self.requests: dict[Job, Request] = {}  # admitted, and not ended
        self.output = OutputProcessor(backend, self.requests, scheduler.ledger.lookahead, names)
        self.now = 0  # ns: the boundary at which the loop stands
        self.alive = True
        self.error: str | None = None
        self.steps = 0
        self.counters: dict[str, int] = {"requests": 0, "prompt_tokens": 0, "output_tokens": 0, "preemptions": 0,
                                         "oom": 0, "failed_steps": 0, "slots": scheduler.slots,
                                         "drafts": 0, "draft_tokens": 0, "accepted_tokens": 0}  # fmt: skip
        self.counters.update({f"finished_{reason}": 0 for reason in FINISHES})
        self.busy_ns = 0  # in turns that had something to run
        self.scheduler_ns = 0  # of these, in the Scheduler and its policy
        self.model_ns = 0  # of these, in the model or waiting for it
        self.waited_ns = 0  # of these, for copies; the rest is the host's own work
        self._scheduling = 0  # of this turn
        self.recovery = Recovery(self)
        recorder.watch = self.row
        recorder.began(self.observers.run, 0)

    def run(self) -> None:
        """Until the inbox is closed, or the Scheduler or its policy breaks; then whoever is left is told."""
        self.inbox.owned()
        try:
            while not self.inbox.closed:
                if not self.turn():
                    self.rest()
        except BaseException as error:  # a policy's SystemExit too: nobody may wait for ever
            self.error = _why(error)
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
                self.cancel(request, reason, self.now, text)
            except BaseException as error:
                self.requests.clear()
                self._hand_out(request, request.end("error", _why(error)))
        try:
            self.recorder.ended(self.now)
        finally:
            self.observers.ended(self.now)

    def rest(self) -> None:
        """Nothing to do until something comes, admission opens by itself, or an alarm of a held job is due."""
        at = self.scheduler.opens_at()
        self.inbox.rest(self.clock, at)
        now = self.now = self.clock.now()
        if at <= now and not self.inbox.closed:
            self.tick(now)

    def tick(self, now: int) -> None:
        """Nothing runs, and the Scheduler wanted to be asked again by now."""
        try:
            rung = self.scheduler.tick(now)
        except BaseException:
            self.observers.last("ticked", now)
            raise
        if rung and self.observers.members:
            self.observers.ticked(now)

    def turn(self) -> bool:
        """One iteration; False if there is nothing to do."""
        began = perf_counter_ns()
        self._scheduling = 0
        if not self.inbox.empty:
            self.drain()
        plan = self._plan()
        if plan is None:
            return False
        try:
            step = self.backend.run(plan)
            self.output.check(plan, step)
        except MemoryError as error:
            self.recovery.too_large(plan, error)
        except Exception as error:
            self.recovery.failed(plan, error)
        else:
            self._commit(plan, step)
            self.steps += 1
            self.recovery.went_well()
        self.scheduler_ns += self._scheduling
        self.busy_ns += perf_counter_ns() - began
        return True

    def _plan(self) -> Plan | None:
        began = perf_counter_ns()
        plan = self.scheduler.plan(self.now)
        self._scheduling += perf_counter_ns() - began
        if self.observers.members:
            if plan is not None:
                self._planned_at = self.clock.now()
                self.observers.planned(plan, self._planned_at)
            elif self.scheduler.live:
                self.observers.idle(self.now)
        return plan

    def _commit(self, plan: Plan, step: Step) -> None:
        looked_at = bool(self.observers.members)
        self._pass(plan, step)
        outcome = self.output.accept(plan, step)
        now = self.clock.now()
        if looked_at:
            self._tell_copies(plan, step, now)
        self.now = now
        outcome.first = now - plan.now
        outcome.service = outcome.first - outcome.stall
        began = perf_counter_ns()
        try:
            finished = self.scheduler.commit(plan, outcome, now)
        except BaseException:
            self.observers.last("committed", plan, outcome, (), now)
            raise
        self._scheduling += perf_counter_ns() - began
        self.counters["preemptions"] += len(plan.left)
        produced = self.output.pieces
        if len(finished) > 1:  # who is told that his has ended may send another: in the order in which these are told
            produced.sort(key=lambda entry: (entry[0].job.arrival, entry[0].job.id))
        self.counters["output_tokens"] += sum([piece.token_id is not None for _, piece in produced])
        for _, drafted, accepted in outcome.drafts:
            self.counters["drafts"] += 1
            self.counters["draft_tokens"] += drafted
            self.counters["accepted_tokens"] += accepted
        for job in finished:
            self._finish(job, produced)
        self.recorder.committed(plan, outcome, finished, now)
        if looked_at:
            self.observers.committed(plan, outcome, finished, now)
        for job in finished:
            if outcome.answers and job in outcome.answers:
                cast(Sharing, self.backend).answer(job, outcome.answers[job])
            self.backend.forget(job)
            del self.requests[job]
        for request, piece in produced:
            piece.at_ns = now
            self._hand_out(request, piece)

    def _tell_copies(self, plan: Plan, step: Step, now: int) -> None:
        """Those of a modelled link, which knows their ends; else those that have ended: from the plan that asked for
        them, until now at the latest.
        """
        if step.transfers is not None:
            for transfer in step.transfers:
                self.observers.copied(transfer, self._planned_at)
            return
        under_way = self.scheduler.ledger.copies
        if len(self._copies) > len(under_way):  # some have ended while nobody looked, or with a step that failed
            self._copies = {copy: at for copy, at in self._copies.items() if copy in under_way}
        for copy in [*plan.store, *plan.park, *plan.load, *plan.prefetch]:
            self._copies.setdefault(copy, plan.now)
        for copy in step.copied:
            start = self._copies.pop(copy, None)
            if start is not None:  # else it began before anybody looked
                self.observers.copied(Transfer(copy, start, now), now)

    def _pass(self, plan: Plan, step: Step) -> None:
        """The time of a modelled step passes here; that of a real one has passed."""
        if step.service is None:
            self.model_ns += step.model_ns
            self.waited_ns += step.stall
        else:
            began = perf_counter_ns()
            self.clock.sleep_until(plan.now + step.stall + step.service)
            self.model_ns += perf_counter_ns() - began

    def _finish(self, job: Job, produced: list[tuple[Request, Piece]]) -> None:
        """Its tokens have ended it; or it outgrew the pool, and the Scheduler has cut it after its last token."""
        request = self.requests[job]
        if not request.finish_reason:
            end = request.end(job.finish)
            last = next((piece for owner, piece in reversed(produced) if owner is request), None)
            if last is None:  # it got no token in this step
                produced.append((request, end))
            else:
                last.text += end.text
                last.finish_reason = end.finish_reason
        job.finish = request.finish_reason

    # -- what recovery from a failed step does ---------------------------------------------------------------------

    def start_over(self, failed: list[Job], why: str) -> None:
        """Discards the failed plan and all KV: every other job recomputes its own."""
        now = self.now = self.clock.now()
        self.backend.reset()
        lost = self.scheduler.forget_all(now)
        self.recorder.failed(lost, now)
        self.observers.failed(lost, now)
        self.counters["preemptions"] += len(lost)
        for job in failed:
            self.cancel(self.requests[job], "error", now, why)

    def resize(self, slots: int) -> None:
        """From now on at most so many jobs share a step."""
        self.scheduler.resize(slots)
        self.counters["slots"] = slots
        self.observers.resized(slots, self.now)

    def reset_prefix_cache(self) -> bool:
        """See Engine.reset_prefix_cache(). Between two iterations."""
        scheduler = self.scheduler
        if not isinstance(scheduler, PrefixScheduler):
            return True
        empty = scheduler.forget_idle(self.now)
        if self.observers.members:
            self.observers.cache_reset(self.now)
        return empty

    # -- what comes from outside -----------------------------------------------------------------------------------

    def drain(self) -> None:
        self.inbox.answer(first=True)
        while self._drain(self.now):  # again where somebody was told that it is over: other things may come of that
            pass
        self.inbox.answer()

    def _drain(self, now: int) -> bool:
        """Whether a request has ended by it."""
        came = [request for request in self.inbox.arrived(now) if not request.finish_reason]
        self.requests.update([(request.job, request) for request in came])  # from here on the loop answers for them
        for request in came:
            self._submit(request, now)
        cancelled = self.inbox.cancelled(now)
        for request, reason in cancelled:
            self.cancel(request, reason, now)
        for program in self.inbox.over():
            self._end_program(program, now)
        return bool(cancelled) or any(request.over for request in came)

    def _submit(self, request: Request, now: int) -> None:
        job = request.job
        try:
            if request.adapter is None:
                self.backend.admit(job, request.prompt, request.params, request.seed)
            else:
                adapting = cast(Adapting, self.backend)
                adapting.admit(job, request.prompt, request.params, request.seed, request.adapter)
        except Exception as error:
            del self.requests[job]
            self._refuse(request, f"{type(error).__name__}: {error}", now)
            return
        began = perf_counter_ns()
        try:
            self.scheduler.submit(job, now)
        except RefusedError as error:
            self.backend.forget(job)
            self.recorder.rejected(job, now, str(error))
            if self.observers.members:
                self.observers.rejected(job, now, str(error))
            del self.requests[job]
            self._refuse(request, str(error), now)
            return
        except BaseException:
            self.observers.last("submitted", job, now)
            raise
        self._scheduling += perf_counter_ns() - began
        self.counters["requests"] += 1
        self.counters["prompt_tokens"] += job.prompt
        if self.observers.members:
            self.observers.submitted(job, now)

    def _refuse(self, request: Request, why: str, now: int) -> None:
        piece = request.end("error", why)
        piece.at_ns = now
        self._hand_out(request, piece)

    def _end_program(self, program: str, now: int) -> None:
        try:
            self.scheduler.end_program(program, now)
        except BaseException:
            self.observers.last("program_ended", program, now)
            raise
        if self.observers.members:
            self.observers.program_ended(program, now)

    def cancel(self, request: Request, reason: str, now: int, error: str | None = None) -> None:
        """It ends now, wherever it is, and whoever waits for it is told."""
        job = request.job
        piece = request.end(reason, error)
        piece.at_ns = now
        if job in self.requests:
            began = perf_counter_ns()
            try:
                self.scheduler.cancel(job, now)
            except BaseException:
                self.observers.last("cancelled", job, now)
                raise
            self._scheduling += perf_counter_ns() - began
            self.backend.forget(job)
            job.finish = reason
            self.recorder.cancelled(job, now)
            if self.observers.members:
                self.observers.cancelled(job, now)
            del self.requests[job]
        self._hand_out(request, piece)

    def _hand_out(self, request: Request, piece: Piece) -> None:
        if piece.finish_reason:
            name = f"finished_{piece.finish_reason}"
            self.counters[name] = self.counters.get(name, 0) + 1
        try:
            request.hand_out(piece)
        except BaseException as error:
            log.warning("request %d: its listener raised and is not called again: %r", request.job.id, error)

    def row(self, job: Job, row: dict[str, Any]) -> None:
        """The Recorder has made a job's record."""
        request = self.requests.get(job)
        if request is not None:
            request.record = row


def _broken(error: ObserverError) -> None:
    log.error("%s; it is told nothing more", error, exc_info=error.__cause__)


def _why(error: BaseException) -> str:
    """For people: what a policy or the recovery says as it stands; of any other error its kind as well."""
    kind, said = type(error).__name__, str(error)
    if said and isinstance(error, PolicyError | RuntimeError):
        return said
    return f"{kind}: {said}" if said else kind
