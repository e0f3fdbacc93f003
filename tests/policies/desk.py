"""A Scheduler worked by hand: jobs come, iterations take what the test says, and one can see who ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastserve.policies import make
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome
from fastserve.sched.policy import Policy
from tests.sched.worlds import scheduler_of

MS = 1_000_000


class Times:
    """A decode takes 10 ms, a prefill 1 ms a token; prompts of up to 1000 tokens, outputs of up to 500."""

    decode_ns = 10 * MS
    output_ns = 500 * 10 * MS
    longest = 1000

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def prefill_ns(self, tokens: int) -> int:
        return tokens * MS

    def load_ns(self, tokens: int) -> int:
        return tokens * MS // 16

    def return_ns(self, blocks: int) -> int:
        return blocks * MS


class Desk:
    """policy: a name of the table with its knobs, or an object. Jobs are numbered as they come; time starts at 0 ms."""

    def __init__(
        self, policy: str | Policy, slots: int = 1, options: dict[str, Any] | None = None, **knobs: Any
    ) -> None:
        self.policy = make(policy, knobs) if isinstance(policy, str) else policy
        shape: dict[str, Any] = {"batching": "mixed", "token_budget": 10**6}
        self.scheduler = scheduler_of(self.policy, Times(slots), max_batch=slots, **(shape | (options or {})))
        self.now = 0
        self.count = 0

    def come(self, prompt: int = 1, **facts: Any) -> Job:
        """A job arrives now."""
        job = Job(self.count, self.now, prompt, **facts)
        self.count += 1
        self.scheduler.submit(job, self.now)
        return job

    def run(self, ms: float, *ended: Job, extra: Sequence[tuple[Job, int]] = ()) -> list[Job]:
        """One iteration of so many ms, in which these jobs end. Returns who held a place, by id.

        extra: (job, delta) for who got 1 + delta tokens.
        """
        plan = self.scheduler.plan(self.now)
        assert plan is not None
        members = sorted(plan.members, key=lambda job: job.id)
        self.now += round(ms * MS)
        self.scheduler.commit(plan, Outcome(1, round(ms * MS), ended=ended, extra=extra), self.now)
        return members

    def rest(self, ms: float) -> float | None:
        """Nothing runs for at most so long, but alarms of held jobs ring. Returns when somebody may join, in ms of the
        clock; None: nobody may.
        """
        end = self.now + round(ms * MS)
        while self.scheduler.plan(self.now) is None:
            at = max(self.now, self.scheduler.opens_at())
            if at > end:
                self.now = end
                return None
            self.now = at
            self.scheduler.tick(at)
        return self.now / MS

    def others(self, ms: int) -> None:
        """Short jobs come one after the other, take 5 ms each and end, for so long."""
        for _ in range(ms // 5):
            job = self.come()
            assert self.run(5, job) == [job]
