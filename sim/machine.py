"""ModelledMachine: the body that computes the time of a Plan. Only it knows true outputs and the next arrival."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final

from fastserve.hardware import LatencyModel
from fastserve.sched.int64 import i64
from fastserve.sched.job import NEVER, Copy, Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.units import Ids
from sim.inbox import Inbox
from sim.link import Link

push: Final = heappush  # (compiled, a Final name costs no look-up)
pop: Final = heappop
FAR: Final = NEVER // 1000
"""ns, 13 days: a boundary this far from the start of a plan bounds nothing; in ps it might not fit 64 bits."""


class ModelledMachine:
    """outputs: true output tokens by job id. inbox: tells when the next arrival or cancel comes.

    It counts picoseconds from the start of each plan; the world sees whole nanoseconds of them, rounded down. What is
    left over goes into the next plan, if that follows at once.
    """

    def __init__(
        self,
        latency: LatencyModel,
        link: Link,
        outputs: Sequence[int],
        inbox: Inbox,
    ) -> None:
        self.latency = latency
        self.link = link
        self.outputs = outputs
        self.inbox = inbox
        self.at: i64 = 0  # ns: when the last plan ended, and the picoseconds beyond
        self.rest: i64 = 0
        self.steps: i64 = 0
        self.ends: list[tuple[int, int, Job]] = []  # (step, id, job): a heap with lazy deletion
        self.end = [0] * len(outputs)  # by job id: the step at which it has its last token; 0 while it does not decode
        self.guessing = False  # does guess() do anything?
        self.most: i64 = NEVER  # iterations that a plan with decodes may be repeated
        self.drafts: i64 = 0  # guesses that the next iteration verifies, of all jobs together

    def run(self, plan: Plan) -> Outcome:
        """As many iterations as the plan and the truth allow."""
        if plan.joined or plan.left or plan.gone:
            self._follow(plan)
        if self.guessing and plan.batch:
            self.guess(plan)
        latency = self.latency
        now: i64 = plan.now
        begun: i64 = self.rest if now == self.at else 0  # ps since `now`
        stall: i64 = 0
        link = self.link
        if plan.moves is not None:
            stall = link.follow(plan)
            begun += stall * 1000
        batch: i64 = plan.batch
        context: i64 = plan.context
        most: i64 = plan.iterations
        if batch and self.most < most:
            most = self.most
        if most > 1 and batch:
            to_end: i64 = self._next_end()
            to_end -= self.steps
            if to_end < most:
                most = to_end
        limit: i64 = self._limit(plan, now, stall) - begun if most > 1 else 0
        k: i64 = 1
        first: i64
        gap: i64 = 0  # ns, the longest iteration after the first
        span: i64
        whole: list[Job] = []  # who ends its prefill
        if plan.prefill:
            chunks: list[tuple[int, int]] = []
            for job, n in plan.prefill:
                cached = job.prefilled if plan.shares is None else plan.first(job)
                chunks.append((cached, n))
                if cached + n == job.prompt + job.tokens_base:
                    whole.append(job)
            if batch and self.drafts:
                first = latency.verify_ps(batch, context, self.drafts, chunks)
            else:
                first = latency.iteration_ps(batch, context, chunks)
            span = first
            while k < most and span < limit:
                cached, n = chunks[0]
                ps: i64 = latency.iteration_ps(batch, context + k * batch, [(cached + k * n, n)])
                span += ps
                ps = -(-ps // 1000)
                if ps > gap:
                    gap = ps
                k += 1
        else:
            if batch and self.drafts:
                first = latency.verify_ps(batch, context, self.drafts)
            else:
                first = latency.last_ps(1, batch, context)
            span = first
            if most > 1 and span < limit:
                k = latency.steps_for(limit, batch, context) if limit < NEVER else most
                if k > most:
                    k = most
                span = latency.span_ps(k, batch, context)
                gap = -(-latency.last_ps(k, batch, context) // 1000)
        if batch:
            self.steps += k
        ended: list[Job] = []
        for job in whole:
            more = self.outputs[job.id] - job.tokens_base - 1
            if more > 0:
                self._expect(job, more)
            else:
                ended.append(job)
        if batch and self.ends and self.ends[0][0] <= self.steps:
            self._ended(ended)
        span += begun
        took: i64 = span // 1000
        self.rest = span - took * 1000
        self.at = now + took
        copied: Sequence[Copy] = link.landed(self.at) if link.moving else ()
        return Outcome(k, took - stall, stall, ended, copied, stall - (-first // 1000), gap)

    def again(self, plan: Plan, outcome: Outcome, at: int, rest: int) -> Outcome:
        """Takes back the plan that was run last, for several iterations, and runs it to what is now an earlier end.

        outcome: what came of it. at, rest: of the machine before it; copies that ended with it must be under way again.
        Of a plan that holds for several iterations nothing moves and nobody joins with a cache, so what run() does at
        its beginning may be done twice.
        """
        if plan.batch:
            for job in outcome.ended:
                self._expect(job, 0)
            self.steps -= outcome.iterations
        self.at, self.rest = at, rest
        return self.run(plan)

    def guess(self, plan: Plan) -> None:
        """Of a machine that speculates, before an iteration with decodes; who decodes is known."""

    def _follow(self, plan: Plan) -> None:
        """Who decodes from now on, and who no longer."""
        end = self.end
        if plan.gone:
            for job in plan.gone:
                end[job.id] = 0
        if plan.left:
            for job in plan.left:
                end[job.id] = 0
        if plan.joined:
            for job in plan.joined:
                if job.decoding:
                    self._expect(job, self.outputs[job.id] - job.generated)

    def _limit(self, plan: Plan, now: i64, stall: i64) -> i64:
        """ps from `now` to the first boundary that the plan or the world sets; NEVER if there is none."""
        boundary: i64 = plan.service + now + stall
        other: i64 = plan.until
        if other < boundary:
            boundary = other
        other = self.inbox.at
        if other < boundary:
            boundary = other
        if self.link.moving:
            other = self.link.next_end()
            if other < boundary:
                boundary = other
        boundary -= now
        return boundary * 1000 if boundary < FAR else 2 * NEVER

    def _ended(self, ended: list[Job]) -> None:
        """Who of those that decoded has its last token."""
        ends = self.ends
        end = self.end
        while ends and ends[0][0] <= self.steps:
            at, id, job = pop(ends)
            if end[id] == at:
                end[id] = 0
                ended.append(job)

    def _expect(self, job: Job, more: int) -> None:
        at: int = self.steps + more
        self.end[job.id] = at
        push(self.ends, (at, job.id, job))

    def _next_end(self) -> int:
        ends = self.ends
        while True:
            at, id, _ = ends[0]
            if self.end[id] == at:
                return at
            pop(ends)


class AnsweringMachine(ModelledMachine):
    """One that tells what its answers are. answers: job id -> the ids of the units that prompt and answer fill beyond
    those of the prompt. calls: by job id, the tool that the answer calls; "" where none, or that is not known.
    """

    def __init__(
        self,
        latency: LatencyModel,
        link: Link,
        outputs: Sequence[int],
        inbox: Inbox,
        answers: Callable[[int], Ids] | None,
        calls: Sequence[str] | None = None,
    ) -> None:
        super().__init__(latency, link, outputs, inbox)
        self.answers = answers
        self.calls = calls

    def run(self, plan: Plan) -> Outcome:
        outcome = super().run(plan)
        if outcome.ended:
            if self.answers is not None:
                outcome.answers = {job: self.answers(job.id) for job in outcome.ended}
            if self.calls is not None:
                outcome.calls = {job: self.calls[job.id] for job in outcome.ended}
        return outcome


class Alone:
    """How long a job takes on the empty machine, see LatencyModel.alone_ps; each prompt's prefill is kept."""

    def __init__(self, latency: LatencyModel, token_budget: int | None) -> None:
        self.latency = latency
        self.token_budget = token_budget
        self.prefills: dict[int, int] = {}  # prompt -> ps

    def ps(self, prompt: int, output: int) -> int:
        prefill = self.prefills.get(prompt, 0)
        if prefill == 0:
            prefill = self.prefills[prompt] = self.latency.alone_ps(prompt, 1, self.token_budget)
        return prefill + self.latency.span_ps(output - 1, 1, prompt + 1)
