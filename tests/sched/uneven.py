"""A modelled machine whose iterations are uneven: a job gets none, one or several tokens from each."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

from fastserve.hardware import LatencyModel
from fastserve.sched.job import NEVER, Job
from fastserve.sched.plan import Outcome, Plan
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import ModelledMachine


class Truth:
    """What a body would say, whatever the schedule: a job's tokens in each of its turns, and whether it ends there.

    A turn is an iteration that might yield a token. outputs: true tokens by job id. most: tokens a turn. calm: from
    this turn on a job gets one token a turn.
    """

    def __init__(self, seed: int, outputs: list[int], most: int, calm: int = NEVER) -> None:
        self.seed = seed
        self.outputs = outputs
        self.most = most
        self.calm = calm

    def speak(self, id: int, turn: int, tokens: int) -> tuple[int, bool]:
        """tokens: so far."""
        left = self.outputs[id] - tokens
        if not left:
            return 0, True
        draw = crc32(b"%d %d %d" % (self.seed, id, turn))
        style = (id + self.seed) % 4
        if turn >= self.calm:
            n = 1
        elif style == 0:  # as drafts are accepted
            n = draw % (self.most + 1)
        elif style == 1:  # as a stream arrives that somebody else has made
            n = self.most if draw % 4 == 0 else 0
        elif style == 2:  # mostly even
            n = 1 if draw % 5 else self.most
        else:  # in long silences
            n = 0 if turn // 3 % 2 else 1 + draw % self.most
        n = min(n, left)
        return n, n == left and id % 5 != 3  # some end a turn after their last token, without another


class UnevenMachine(ModelledMachine):
    """Several iterations for a plan while they are even, else one."""

    def __init__(self, latency: LatencyModel, link: Link, truth: Truth, inbox: Inbox) -> None:
        super().__init__(latency, link, truth.outputs, inbox)
        self.truth = truth
        self.turns: Counter[Job] = Counter()
        self.clock = 0  # ps
        self.extras = 0
        self.stretches = 0  # plans that were run several times

    def run(self, plan: Plan) -> Outcome:
        now = plan.now
        stall = self.link.follow(plan) if plan.moves else 0
        start = max(self.clock, now * 1000) + stall * 1000
        work = plan.work
        end = min(now + stall + plan.service, plan.until, self.inbox.at)
        if self.link.moving:
            end = min(end, self.link.next_end())
        most = self._even(work, plan.iterations)
        span = first = self._iteration(plan, 0)
        k = 1
        gap = 0
        while k < most and span < end * 1000 - start and not self.looks((start + span) // 1000):
            ps = self._iteration(plan, k)
            span += ps
            gap = max(gap, -(-ps // 1000))
            k += 1
        self.stretches += k > 1
        self.clock = start + span
        after = self.clock // 1000
        ended: list[Job] = []
        extra: list[tuple[Job, int]] = []
        for job, n in work:
            if job.decoding or plan.completes(job, n):
                turn = self.turns[job] + k - 1
                tokens, over = self.truth.speak(job.id, turn, job.generated + k - 1)
                self.turns[job] += k
                if tokens != 1 or (k == 1 and job.id % 7 == 0):  # a body may name those that got one as well
                    extra.append((job, tokens - 1))
                if over:
                    ended.append(job)
        self.extras += len(extra)
        copied = self.link.landed(after) if self.link.moving else ()
        return Outcome(k, after - now - stall, stall, ended, copied, stall - (-first // 1000), gap, extra)

    def looks(self, now: int) -> bool:
        """Must a plan be asked for at this boundary?"""
        return False

    def _iteration(self, plan: Plan, i: int) -> int:
        """ps of the iteration number i of this plan."""
        if not (plan.batch or plan.prefill):
            return 10**9
        chunks = [(plan.first(job) + i * n, n) for job, n in plan.prefill]
        return self.latency.iteration_ps(plan.batch, plan.context + i * plan.batch, chunks)

    def _even(self, work: list[tuple[Job, int]], most: int) -> int:
        """How many iterations, at most `most`, give each job in them one token."""
        for job, _ in work:
            if job.decoding:
                calm = self.turns[job] >= self.truth.calm
                most = min(most, self.truth.outputs[job.id] - job.generated if calm else 1)
        return max(1, most)
