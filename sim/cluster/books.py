"""Books: how much work a replica's jobs are, kept by change; Moment: the same as it was at one time, and goes on.

What a view tells must not depend on how far a replica runs ahead. A Moment stands for the time from one boundary to the
next, with the plan under way counted as decided, and is read as of any time in between: after so many whole iterations.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from fastserve.hardware import LatencyModel
from fastserve.sched.job import NEVER, NOWHERE, Job
from fastserve.sched.plan import Plan
from fastserve.sched.scheduler import Scheduler


class Books:
    """Of one Scheduler, from a time at which it is at a boundary, or runs a plan that is not committed."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.meter = scheduler.meter
        self.owed: dict[Job, int] = {}  # prompt tokens, and tokens to compute again, that a job still needs computed
        self.queued = 0  # their sum
        self.still: dict[Job, int] = {}  # output tokens that are expected of who does not decode
        self.later = 0  # their sum
        self.last: dict[Job, int] = {}  # of who decodes: meter.steps at which it has as many as were expected
        self.steps = 0  # their sum
        self.order: list[tuple[int, int, Job]] = []  # (that, id, job): a heap with stale entries
        self.touch(scheduler.live)

    def touch(self, jobs: Iterable[Job]) -> None:
        """Something has become of them."""
        for job in jobs:
            self.queued -= self.owed.pop(job, 0)
            self.later -= self.still.pop(job, 0)
            self.steps -= self.last.pop(job, 0)
            if job.finish:
                continue
            owed = 0 if job.decoding else job.prompt + job.generated - job.prefilled
            if owed:
                self.owed[job] = owed
                self.queued += owed
            guess = job.guess or 0
            if job.rolling:
                last = guess - job.tokens_base  # (which is the tokens it has less meter.steps)
                if last > self.meter.steps:
                    self.last[job] = last
                    self.steps += last
                    heappush(self.order, (last, job.id, job))
            elif guess > job.tokens_base:
                self.still[job] = guess - job.tokens_base
                self.later += guess - job.tokens_base

    def passed(self) -> None:
        """Steps have been made: of some who decode nothing more is expected."""
        order = self.order
        now = self.meter.steps
        while order and order[0][0] <= now:
            last, _, job = heappop(order)
            if self.last.get(job) == last:
                del self.last[job]
                self.steps -= last

    def within(self, steps: int) -> list[int]:
        """meter.steps at which somebody has as many as were expected, up to this one, rising."""
        found: dict[Job, int] = {}  # (one may be in the heap twice)
        order = self.order
        look = [0]
        while look:
            at = look.pop()
            if at < len(order) and order[at][0] <= steps:
                last, _, job = order[at]
                if self.last.get(job) == last:
                    found[job] = last
                look += (2 * at + 1, 2 * at + 2)
        return sorted(found.values())


class Memory:
    """What a Scheduler has of its KV pool, as it stands."""

    __slots__ = ("begun", "block", "cold", "idle", "room", "size", "steps", "unit", "used")

    def __init__(self, scheduler: Scheduler) -> None:
        ledger, sharing = scheduler.ledger, scheduler.sharing
        self.steps = scheduler.meter.steps
        self.block = ledger.block
        self.room = ledger.blocks
        self.used = ledger.used
        self.cold = ledger.cold
        at, phase = -self.steps % self.block, ledger.phase
        self.begun = phase[at::-1] + phase[:at:-1]  # blocks that those who decode begin with each decode to come
        self.unit = 0 if sharing is None else sharing.unit
        self.size = 1 if sharing is None else sharing.size
        self.idle = 0 if sharing is None else sharing.tree.idle_units

    def free(self, done: int) -> tuple[int | None, int]:
        """Tokens in use by nobody, without and with something remembered, after so many decodes of those who decode."""
        if self.room >= NEVER:
            return None, self.idle * self.unit
        used = self.used + self.cold
        if done:
            begun = self.begun
            if done >= self.block:
                used += done // self.block * sum(begun)
            used += sum(begun[: done % self.block])
        left = max(0, self.room - used)
        idle = min(self.idle, left // self.size)
        return (left - idle * self.size) * self.block, idle * self.unit


class Moment:
    """A replica from `at` (ns) on, until something else happens to it.

    box: what has been sent to it, and its Scheduler does not know yet. plan: under way, for so many iterations; None:
    none is. begun: ps of its time that the one before it has left over. whole: it will be asked for later than that;
    else what is costly to know is only looked at when somebody asks.
    """

    __slots__ = (
        "active", "at", "batch", "begun", "books", "bounds", "boxed", "boxed_guess", "boxed_prompt", "chunk", "context",
        "expected", "k", "latency", "memory", "queued", "running", "scheduler", "start", "steps", "waiting", "within",
    )  # fmt: skip

    def __init__(
        self,
        at: int,
        scheduler: Scheduler,
        books: Books,
        box: Sequence[tuple[int, int, int, Job]],
        plan: Plan | None,
        iterations: int,
        begun: int,
        latency: LatencyModel,
        whole: bool,
    ) -> None:
        self.at = at
        self.scheduler = scheduler
        self.books = books
        self.running = len(scheduler.running)
        self.waiting = len(scheduler.live) - self.running
        self.boxed = self.boxed_prompt = self.boxed_guess = 0
        for _, _, _, job in box:
            self.boxed += 1
            self.boxed_prompt += job.prompt
            self.boxed_guess += job.guess or 0
        self.queued = books.queued
        self.steps = scheduler.meter.steps
        self.expected = books.later + books.steps
        self.active = len(books.last)
        self.memory = Memory(scheduler) if whole else None
        self.k = 0  # iterations under way of which each yields something
        self.within: list[int] | None = None  # see Books.within()
        if plan is None:
            return
        change = len(plan.joined) - len(plan.left)
        self.running += change
        self.waiting -= change
        if plan.shares is not None:
            for job in plan.joined:
                if job.place is NOWHERE:
                    self.queued -= plan.shares.found.get(job, 0)
        if iterations == 1:
            return
        self.k = iterations
        self.start = plan.now
        self.begun = begun
        self.batch = plan.batch
        self.context = plan.context
        self.latency = latency
        self.chunk = 0
        if plan.prefill:
            alone, self.chunk = plan.prefill[0]
            self.bounds = self._bounds(plan.first(alone))
        if whole and plan.batch:
            self.within = books.within(self.steps + iterations)

    def _bounds(self, first: int) -> list[int]:
        """ps from the start to the end of each iteration of a lone prefill, for which there is no formula."""
        total = self.begun
        found = []
        for i in range(self.k):
            part = (first + i * self.chunk, self.chunk)
            total += self.latency.iteration_ps(self.batch, self.context + i * self.batch, [part])
            found.append(total)
        return found

    def passed(self, now: int) -> int:
        """Iterations of the plan under way that are over by `now` (ns)."""
        if self.k == 0:
            return 0
        ps = (now - self.start + 1) * 1000  # its end, in whole ns, is at or before now: it is before now + 1
        if self.chunk:
            return bisect_right(self.bounds, ps - 1)
        done = self.latency.steps_for(ps - self.begun, self.batch, self.context) - 1
        return done if done < self.k else self.k

    def work(self, done: int) -> tuple[int, int]:
        """Prompt tokens that it still has to compute, and output tokens that are expected of it, after so many
        iterations of the plan under way.
        """
        queued = self.queued + self.boxed_prompt
        expected = self.expected + self.boxed_guess
        steps = self.steps
        if done:
            queued -= done * self.chunk
            if self.batch:
                steps += done
                if self.within is None:
                    self.within = self.books.within(self.steps + self.k)
                for last in self.within:
                    if last >= steps:
                        break
                    expected += steps - last
        return queued, expected - self.active * steps

    def room(self, done: int) -> tuple[int | None, int]:
        """Tokens of its KV pool in use by nobody, without and with something remembered, after so many."""
        if self.memory is None:
            self.memory = Memory(self.scheduler)
        return self.memory.free(done if self.k and self.batch else 0)
