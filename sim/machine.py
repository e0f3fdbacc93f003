"""ModelledMachine: an Executor that computes the time of a Plan. Only it knows true outputs and the next arrival."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from fastserve.hardware import LatencyModel
from fastserve.sched.job import Job
from fastserve.sched.plan import Copy, Outcome, Plan
from sim.inbox import Inbox
from sim.link import Link


class ModelledMachine:
    """outputs: true output tokens by job id. inbox: tells when the next arrival or cancel comes.

    Its clock counts picoseconds; the world sees whole nanoseconds of it, rounded down.
    """

    def __init__(self, latency: LatencyModel, link: Link, outputs: Sequence[int], inbox: Inbox) -> None:
        self.latency = latency
        self.link = link
        self.outputs = outputs
        self.inbox = inbox
        self.ps = 0
        self.steps = 0
        self.ends: list[tuple[int, int, Job]] = []  # (step, id, job): a heap with lazy deletion
        self.end: dict[Job, int] = {}  # step at which a decoding member has its last token

    def run(self, plan: Plan) -> Outcome:
        """As many iterations as the plan and the truth allow."""
        latency = self.latency
        end = self.end
        for job in plan.gone:
            end.pop(job, None)
        for job in plan.left:
            end.pop(job, None)
        for job in plan.joined:
            if job.decoding:
                self._expect(job, self.outputs[job.id] - job.generated)
        now = plan.now
        start = max(self.ps, now * 1000)
        stall = 0
        if plan.moves:
            stall = self.link.follow(plan)
            start += stall * 1000
        k = 1
        ended: list[Job] = []
        batch = plan.batch
        gap = 0
        most = plan.iterations
        if most > 1 and batch:
            most = min(most, self._next_end() - self.steps)
        limit = 0
        if most > 1:
            boundary = min(now + stall + plan.service, plan.until, self.inbox.at)
            if self.link.moving:
                boundary = min(boundary, self.link.next_end())
            limit = boundary * 1000 - start
        context = plan.context
        if plan.prefill:
            span = first = latency.iteration_ps(batch, context, [(job.prefilled, n) for job, n in plan.prefill])
            while k < most and span < limit:
                job, n = plan.prefill[0]
                ps = latency.iteration_ps(batch, context + k * batch, [(job.prefilled + k * n, n)])
                span += ps
                gap = max(gap, -(-ps // 1000))
                k += 1
        else:
            span = first = latency.span_ps(1, batch, context)
            if most > 1 and span < limit:
                k = min(most, latency.steps_for(limit, batch, context))
                span = latency.span_ps(k, batch, context)
                gap = -(-latency.last_ps(k, batch, context) // 1000)
        if batch:
            self.steps += k
        for job, n in plan.prefill:
            if job.prefilled + n == job.prompt + job.generated:
                more = self.outputs[job.id] - job.generated - 1
                if more > 0:
                    self._expect(job, more)
                else:
                    ended.append(job)
        if batch:
            self._collect(ended)
        self.ps = start + span
        after = self.ps // 1000
        copied: Sequence[Copy] = self.link.landed(after) if self.link.moving else ()
        return Outcome(k, after - now - stall, stall, ended, copied, stall - (-first // 1000), gap)

    def _expect(self, job: Job, more: int) -> None:
        at = self.steps + more
        self.end[job] = at
        heappush(self.ends, (at, job.id, job))

    def _next_end(self) -> int:
        ends = self.ends
        end = self.end
        while end.get(ends[0][2]) != ends[0][0]:
            heappop(ends)
        return ends[0][0]

    def _collect(self, ended: list[Job]) -> None:
        ends = self.ends
        end = self.end
        while ends and ends[0][0] <= self.steps:
            at, _, job = heappop(ends)
            if end.get(job) == at:
                del end[job]
                ended.append(job)
