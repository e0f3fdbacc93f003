"""Driver: one of our Schedulers and the vLLM requests that it decides about. It keeps the order of events of every
driver, and tells the Scheduler what vLLM has really done.

It knows what vLLM's requests look like and nothing else of vLLM; what it decides is carried out by adapter.py. A policy
that breaks, and whatever else goes wrong here, raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from fastserve.sched.errors import PolicyError
from fastserve.sched.job import DEVICE, NOWHERE, Job
from fastserve.sched.observer import Observers
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.prefix import PrefixScheduler
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.uneven import speaks
from fastserve.vllm.pool import pool_of
from fastserve.vllm.request import Reader, finish_of, names, tokens_of

log = logging.getLogger("vllm.fastserve")


class Driver:
    """observers: of this scheduler. reader: makes the jobs. arrival: request -> ns. parks: KV of who leaves is kept.
    longest: tokens of prompt and output. counts: the adapter's.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        observers: Observers,
        reader: Reader,
        arrival: Callable[[Any], int],
        parks: bool,
        longest: int,
        counts: dict[str, Any],
    ) -> None:
        self.scheduler = scheduler
        self.observers = observers
        self.reader = reader
        self.arrival = arrival
        self.parks = parks
        self.counts = counts
        self.jobs: dict[str, Job] = {}  # of requests that live
        self.requests: dict[Job, Any] = {}  # of these, and of those whose end the Scheduler has yet to be told
        self.inbox: list[Any] = []
        self.ended: list[Job] = []
        self.cancelled: list[Job] = []
        self.over: dict[str, None] = {}  # programs whose last request has ended
        self.lost: dict[Job, None] = {}  # whom vLLM itself has preempted
        self.doubt: dict[Job, None] = {}  # preempted, and tokens of theirs may be in flight
        self.plan: Plan | None = None  # has been run, or is in flight
        self.service = 0  # ns of steps that have ended since the last commit
        self.silent: list[Job] = []  # who decodes in the plan, and was not scheduled
        self.refused = False  # vLLM has not started somebody whom the last plan called
        self.uneven = False  # somebody else may have got another number of tokens than one: look at each
        self.kept_told = False
        ledger = scheduler.ledger
        self.largest = -(-(longest + ledger.lookahead) // ledger.block)  # blocks of the largest request there can be

    # -- what vLLM tells -------------------------------------------------------------------------------------------

    def finished(self, request: Any) -> None:
        """vLLM has ended it, and not by its tokens."""
        job = self.jobs.pop(request.request_id, None)
        if job is not None:
            self.cancelled.append(job)

    def heard(self, outputs: Sequence[Any], scheduled: Mapping[str, int], expected: int) -> None:
        """What a step has yielded. expected: of how many of those who were scheduled a token was."""
        jobs = self.jobs
        even = True
        for output in outputs:
            if len(output.new_token_ids) != 1:
                even = False
            if output.finish_reason is not None:
                job = jobs.pop(output.request_id, None)
                if job is not None:
                    self.ended.append(job)
        if len(outputs) != expected and even:  # some may have ended before the step had
            spoke = {output.request_id for output in outputs}
            silent = [jobs[id] for id in scheduled if id in jobs and id not in spoke]
            even = all(self.requests[job].is_prefill_chunk for job in silent)
        if not even:
            self.uneven = True

    def preempted(self, request: Any) -> None:
        """Its KV is gone. By vLLM, for memory, unless whoever has asked for it says otherwise."""
        job = self.jobs.get(request.request_id)
        if job is not None:
            self.lost[job] = self.doubt[job] = None

    # -- a step ----------------------------------------------------------------------------------------------------

    def settle(self, last: int, now: int) -> None:
        """Commits the plan that has been run. Where vLLM schedules ahead it is still in flight, and its tokens are
        counted ahead. last: ns, when the last step ended.
        """
        plan, self.plan = self.plan, None
        if plan is not None:
            self._commit(plan, max(plan.now, last))
        elif self.scheduler.held and self.scheduler.opens_at() <= now:
            self._tick(now)
        if self.uneven:
            self.uneven = False
            self._recount(max(self.scheduler.meter.now, last))
        if not self.kept_told and self.scheduler.sharing is not None and self.scheduler.sharing.tree.pins.of:
            self.kept_told = True
            log.warning(
                "the policy keeps prefixes by keep(); vLLM evicts what it likes, so its prefix cache may differ"
            )

    def drain(self, now: int) -> None:
        """Arrivals, then cancels, then ends of programs. A request whose grammar is being compiled has not come yet;
        one that has ended where there is no plan to commit, while vLLM is paused, is cancelled.
        """
        if self.inbox:
            came = [request for request in self.inbox if not (request.is_finished() or _compiling(request))]
            self.inbox = [request for request in self.inbox if not request.is_finished() and _compiling(request)]
            for request in sorted(came, key=self.arrival):
                self._submit(request, now)
        if self.cancelled or self.ended:
            for job in [*self.cancelled, *self.ended]:
                self._cancel(job, now)
            self.cancelled = []
            self.ended = []
        if self.over:
            for program in sorted(self.over.keys() - {job.program for job in self.scheduler.live}):
                del self.over[program]
                self._end_program(program, now)

    def propose(self, now: int, free: int, spare: int) -> Plan | None:
        """free: blocks of vLLM's pool that nobody holds. spare: of these, how many it keeps when it starts somebody."""
        scheduler = self.scheduler
        if not scheduler.live:
            return None
        blocks = pool_of(scheduler, self.requests, free)
        if spare:  # for that nobody leaves who runs
            blocks = min(blocks, max(blocks - spare, scheduler.ledger.used))
        self._resize(blocks, now)
        plan = scheduler.plan(now)
        if plan is None and not (scheduler.held or scheduler.running):
            # What is reserved ahead of the next token is more than the whole pool has: vLLM gets along without it.
            self._resize(max([scheduler.ledger.need(job) for job in scheduler.live]), now)
            plan = scheduler.plan(now)
        if self.observers.members:
            if plan is None:
                self.observers.idle(now)
            else:
                self.observers.planned(plan, now)
        return plan

    def accept(self, plan: Plan, scheduled: Mapping[str, int], now: int) -> int:
        """What vLLM has made of the plan: so many tokens for each request that it scheduled. The plan is amended and
        will be committed. Returns for how many requests the step yields a token.
        """
        self.plan = plan
        decoding = len(scheduled)
        whole = 0
        if self.scheduler.prefilling or plan.joined or plan.left or self.lost:
            prefilling, whole = self._compare(plan, scheduled, now)
            decoding -= prefilling
        if decoding != plan.batch:
            self.silent = [job for job in plan.due if job.decoding and self.requests[job].request_id not in scheduled]
        return decoding + whole

    def _compare(self, plan: Plan, scheduled: Mapping[str, int], now: int) -> tuple[int, int]:
        """Amends a plan in which more happens than decodes. Returns how many prefills vLLM scheduled, and ends.

        Who joins without a chunk has its place, and waits in vLLM until a plan has one for it. Who has one and was not
        started by vLLM joins another time. A prefill that vLLM began with less than was found when its job joined
        shows no progress until it has caught up.
        """
        planned = dict(plan.prefill)
        drop = set(plan.drop)
        lost = [job for job in self.lost if job not in drop and (job.place is DEVICE or job in plan.joined)]
        self.counts["by_vllm"] += len(lost)
        lost = [job for job in lost if self.requests[job].request_id not in scheduled]  # lost in a pause, begun again
        self.lost.clear()
        if not self.parks:
            lost += [job for job in plan.left if job not in drop and job not in lost]
        absent: list[Job] = []
        found: dict[Job, int] = {}
        done: dict[Job, int] = {}
        prefilling = whole = 0
        joined = [job for job in plan.joined if job.place is NOWHERE]
        for job in chain(joined, self.scheduler.prefilling):
            request = self.requests[job]
            computed = request.num_computed_tokens
            tokens = scheduled.get(request.request_id)
            if tokens is None:
                if job in planned and not computed:
                    (absent if job.place is NOWHERE else lost).append(job)
                continue
            prefilling += 1
            first = job.prefilled
            if job.place is NOWHERE:
                first = computed - tokens
                if first != plan.found.get(job, 0):
                    found[job] = first
            end = job.prompt + job.tokens_base
            whole += computed >= end
            if computed > first:
                done[job] = min(computed, end) - first
        self.refused = bool(absent)
        if lost or absent or found or done != planned:
            order = [job for job in planned if job in done]
            prefill = [(job, done[job]) for job in dict.fromkeys(chain(order, done))]
            self.scheduler.amend(plan, prefill=prefill, absent=absent, lost=lost, found=found)
            self.observers.amended(plan, now)
            self.counts["amended"] += 1
        return prefilling, whole

    def forget_all(self, now: int) -> None:
        """vLLM has preempted everybody and emptied its cache."""
        lost = self.scheduler.forget_all(now)
        self.lost.clear()
        self.uneven = True  # what was in flight is dropped
        self.observers.failed(lost, now)

    def forget_idle(self, now: int) -> None:
        """vLLM has emptied its prefix cache."""
        if isinstance(self.scheduler, PrefixScheduler):
            self.scheduler.forget_idle(now)
            self.observers.cache_reset(now)

    def close(self, now: int) -> None:
        self.observers.ended(now)

    # -- what the Scheduler is told --------------------------------------------------------------------------------

    def _tick(self, now: int) -> None:
        try:
            rung = self.scheduler.tick(now)
        except PolicyError:
            self.observers.last("ticked", now)
            raise
        if rung:
            self.observers.ticked(now)

    def _submit(self, request: Any, now: int) -> None:
        job = self.reader.job(request, min(now, self.arrival(request)))
        job.tokens_base = request.num_output_tokens  # none, unless another Scheduler has served it before
        self.jobs[request.request_id] = job
        self.requests[job] = request
        if request.num_stale_output_tokens:
            self.doubt[job] = None
        need = self.scheduler.ledger.need(job)
        if need > self.scheduler.ledger.blocks:
            self._resize(need, now)  # vLLM has accepted it
        try:
            self.scheduler.submit(job, now)
        except PolicyError:
            self.observers.last("submitted", job, now)
            raise
        self.observers.submitted(job, now)

    def _cancel(self, job: Job, now: int) -> None:
        if job in self.scheduler.live:
            self._correct(job, self._more(job), now)
            try:
                self.scheduler.cancel(job, now)
            except PolicyError:
                self.observers.last("cancelled", job, now)
                raise
            job.finish = finish_of(self.requests[job])
            self.observers.cancelled(job, now)
        self._forget(job)

    def _end_program(self, program: str, now: int) -> None:
        try:
            self.scheduler.end_program(program, now)
        except PolicyError:
            self.observers.last("program_ended", program, now)
            raise
        self.observers.program_ended(program, now)

    def _forget(self, job: Job) -> None:
        del self.requests[job]
        self.lost.pop(job, None)
        self.doubt.pop(job, None)
        if job.final and job.program:
            self.over[job.program] = None

    def _commit(self, plan: Plan, now: int) -> None:
        scheduler = self.scheduler
        odd = dict.fromkeys(chain(self.ended, self.cancelled, self.silent))
        extra: list[tuple[Job, int]] = []
        if self.uneven or odd:
            due = plan.due if self.uneven else [job for job in odd if speaks(plan, job)]
            got = {}
            for job in due:
                delta = got[job] = min(max(-1, self._more(job) - 1), scheduler.ledger.lookahead)
                if delta:
                    extra.append((job, delta))
            for job in self.ended:  # of all others what is left is corrected behind the commit
                self._correct(job, self._more(job) - (1 + got[job] if job in got else 0), now)
        self._keep_whole(plan, now)
        answers = {}
        if self.ended and self.reader.unit:
            unit = self.reader.unit
            for job in self.ended:
                request = self.requests[job]
                answers[job] = names(request, len(job.ids), (job.prompt + request.num_output_tokens) // unit)
        outcome = Outcome(1, self.service, 0, self.ended, (), self.service, 0, extra, answers)
        self.service = 0
        self.ended = []
        self.silent = []
        try:
            finished = scheduler.commit(plan, outcome, now)
        except PolicyError:
            self.observers.last("committed", plan, outcome, (), now)
            raise
        for job in finished:
            job.finish = finish_of(self.requests[job])
        if self.observers.members:
            self.observers.committed(plan, outcome, finished, now)
        for job in outcome.ended:
            self._forget(job)

    # -- tokens ----------------------------------------------------------------------------------------------------

    def _more(self, job: Job) -> int:
        """Tokens that vLLM has given it beyond those that the Scheduler knows of."""
        tokens = tokens_of(self.requests[job])
        return 0 if tokens is None else min(tokens, job.limit) - job.generated

    def _recount(self, now: int) -> None:
        """After a commit: our count of each job's tokens must be vLLM's."""
        scheduler = self.scheduler
        for job in [*scheduler.running, *scheduler.ledger.parked, *self.doubt]:
            request = self.requests[job]
            if request.num_output_placeholders > 1 or tokens_of(request) is None:
                self.uneven = True  # drafts are in flight, or what a preempted request will get: look again
            else:
                self.doubt.pop(job, None)
            self._correct(job, self._more(job), now)

    def _correct(self, job: Job, tokens: int, now: int) -> None:
        if tokens:
            self.scheduler.correct(job, tokens, now)
            self.observers.corrected(job, tokens, now)
            self.counts["corrected"] += 1

    # -- the pool --------------------------------------------------------------------------------------------------

    def _resize(self, blocks: int, now: int) -> None:
        ledger = self.scheduler.ledger
        if blocks != ledger.blocks:
            self.scheduler.resize_pool(max(1, blocks))
            self.observers.pool_resized(ledger.blocks, now)

    def _keep_whole(self, plan: Plan, now: int) -> None:
        """Before a commit: no job may be cut off because its next token does not fit in the pool as it is just now."""
        ledger = self.scheduler.ledger
        if ledger.blocks >= self.largest:
            return
        grown = [ledger.need(job) for job in chain(self.scheduler.running, plan.joined)]
        most = max(grown, default=0) + 1 + ledger.lookahead // ledger.block
        if most > ledger.blocks:
            self._resize(most, now)


def _compiling(request: Any) -> bool:
    grammar = request.structured_output_request
    return grammar is not None and grammar.grammar is None
