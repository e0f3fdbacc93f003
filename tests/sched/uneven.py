"""A modelled machine whose iterations are uneven: a job gets none, one or several tokens from each."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

from fastserve.hardware import LatencyModel
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import ModelledMachine


class Truth:
    """What a body would say, whatever the schedule: a job's tokens in each of its turns, and whether it ends there.

    A turn is an iteration that might yield a token. outputs: true tokens by job id. most: tokens a turn.
    """

    def __init__(self, seed: int, outputs: list[int], most: int) -> None:
        self.seed = seed
        self.outputs = outputs
        self.most = most

    def speak(self, id: int, turn: int, tokens: int) -> tuple[int, bool]:
        """tokens: so far."""
        left = self.outputs[id] - tokens
        if not left:
            return 0, True
        draw = crc32(b"%d %d %d" % (self.seed, id, turn))
        style = (id + self.seed) % 4
        if style == 0:  # as drafts are accepted
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
    """One iteration a plan."""

    def __init__(self, latency: LatencyModel, link: Link, truth: Truth, inbox: Inbox) -> None:
        super().__init__(latency, link, truth.outputs, inbox)
        self.truth = truth
        self.turns: Counter[Job] = Counter()
        self.extras = 0

    def run(self, plan: Plan) -> Outcome:
        now = plan.now
        stall = self._copy(plan) if plan.moves else 0
        chunks = [(job.prefilled, n) for job, n in plan.prefill]
        span = self.latency.iteration_ps(plan.batch, plan.context, chunks)
        self.ps = max(self.ps, now * 1000) + stall * 1000 + span
        after = self.ps // 1000
        ended: list[Job] = []
        extra: list[tuple[Job, int]] = []
        for job, n in plan.work:
            if job.decoding or job.prefilled + n == job.prompt + job.generated:
                tokens, over = self.truth.speak(job.id, self.turns[job], job.generated)
                self.turns[job] += 1
                if tokens != 1 or job.id % 7 == 0:  # a body may name those that got one as well
                    extra.append((job, tokens - 1))
                if over:
                    ended.append(job)
        self.extras += len(extra)
        copied = self.link.landed(after) if self.link.moving else ()
        return Outcome(1, after - now - stall, stall, ended, copied, stall - (-span // 1000), extra=extra)
