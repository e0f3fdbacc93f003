"""What rings: the alarms that policies set with wake(), on three clocks.

Each clock has a heap of (at, id, job). No table says which entries count: one is current while it names the
time at which its job's alarm is due by the job's goal and base, and stale otherwise; stale ones are dropped when seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

from fastserve.sched.errors import PolicyError
from fastserve.sched.job import NEVER, Job, Meter
from fastserve.sched.policy import KEEP, Policy

Entry = tuple[int, int, Job]  # (at, id, job): the id is unique, so jobs are never compared

push: Final = heappush  # (compiled, a Final name costs no look-up)
pop: Final = heappop


def served_at(job: Job) -> int:
    """The service clock at which it will have been served enough; NEVER without such an alarm, or while it waits."""
    return job.served_goal - job.clock_base if job.running and job.served_goal < NEVER else NEVER


def tokens_at(job: Job) -> int:
    """The step counter at which it will have enough tokens; NEVER without such an alarm, or while it owes a prefill,
    and has fewer; 0 if a correction has given it enough meanwhile.
    """
    goal = job.tokens_goal
    if job.rolling:
        return goal - job.tokens_base if goal < NEVER else NEVER
    return NEVER if goal > job.tokens_base else 0


def waited_at(job: Job) -> int:
    """ns, the wall clock at which it will have waited too long; NEVER without such an alarm, or while it runs."""
    return job.since + job.waited if job.waited and not job.running else NEVER


class Alarms:
    """Of one Scheduler. Whoever moves a goal or a base of a job calls watch_...() after it."""

    __slots__ = ("meter", "policy", "served", "tokens", "waited")

    def __init__(self, policy: Policy, meter: Meter) -> None:
        self.policy = policy
        self.meter = meter
        self.served: list[Entry] = []  # on meter.service
        self.tokens: list[Entry] = []  # on meter.steps
        self.waited: list[Entry] = []  # on the wall clock

    def wake(self, job: Job, served: int | None, tokens: int | None, waited: int | None) -> None:
        """See Policy.wake()."""
        if served is None:
            job.served_goal = NEVER
        elif served != KEEP:
            if served < 1:
                served = 1
            if job.running:
                at = self.meter.service + served
                job.served_goal = goal = at + job.clock_base
                if goal < NEVER:
                    push(self.served, (at, job.id, job))
            else:
                job.served_goal = job.clock_base + served
        if tokens is None:
            job.tokens_goal = NEVER
        elif tokens != KEEP:
            job.tokens_goal = job.generated + (tokens if tokens > 0 else 1)
            self.watch_tokens(job)
        if waited is None:
            job.waited = 0
        elif waited != KEEP:
            job.waited = waited if waited > 0 else 1
            self.watch_waited(job)

    def watch_served(self, job: Job) -> None:
        if job.running and job.served_goal < NEVER:
            push(self.served, (job.served_goal - job.clock_base, job.id, job))

    def watch_tokens(self, job: Job) -> None:
        if job.rolling and job.tokens_goal < NEVER:
            push(self.tokens, (job.tokens_goal - job.tokens_base, job.id, job))

    def watch_corrected(self, job: Job) -> None:
        """Its count of tokens has been put right, wherever it is."""
        at = tokens_at(job)
        if at < NEVER:
            push(self.tokens, (at, job.id, job))

    def watch_waited(self, job: Job) -> None:
        if job.waited and not job.running:
            push(self.waited, (job.since + job.waited, job.id, job))

    # -- when the next one rings; NEVER if none does ---------------------------------------------------------------

    def next_served(self) -> int:
        heap = self.served
        while heap:
            at, _, job = heap[0]
            if job.running and job.served_goal < NEVER and job.served_goal - job.clock_base == at:
                return at
            pop(heap)
        return NEVER

    def next_tokens(self) -> int:
        heap = self.tokens
        while heap:
            entry = heap[0]
            if tokens_at(entry[2]) == entry[0]:
                return entry[0]
            pop(heap)
        return NEVER

    def next_waited(self) -> int:
        heap = self.waited
        while heap:
            entry = heap[0]
            if waited_at(entry[2]) == entry[0]:
                return entry[0]
            pop(heap)
        return NEVER

    # -- the end of an iteration -----------------------------------------------------------------------------------

    def ripe(self, now: int) -> bool:
        """May one have fallen due? Cheap; a stale entry says yes as well."""
        if self.served and self.served[0][0] <= self.meter.service:
            return True
        if self.tokens and self.tokens[0][0] <= self.meter.steps:
            return True
        return len(self.waited) > 0 and self.waited[0][0] <= now

    def ring(self, now: int) -> bool:
        """Each that is due rings if it still is at its turn; what falls due meanwhile rings at the next boundary.

        By (arrival, id), served before tokens; then those who waited, by (arrival, id). Returns whether any has rung.
        """
        meter = self.meter
        service = meter.service
        steps = meter.steps
        turns: list[tuple[int, int, bool, Job]] = []
        served = self.served
        while served and served[0][0] <= service:
            at, id, job = pop(served)
            if job.running and job.served_goal - job.clock_base == at:  # as served_at() says; `at` is far from NEVER
                turns.append((job.arrival, id, False, job))
        tokens = self.tokens
        while tokens and tokens[0][0] <= steps:
            _, id, job = pop(tokens)
            if tokens_at(job) <= steps:  # (it may have left since it was corrected)
                turns.append((job.arrival, id, True, job))
        if len(turns) > 1:
            turns.sort()
        rung = False
        for _, _, by_tokens, job in turns:
            if by_tokens:
                if tokens_at(job) <= steps:
                    job.tokens_goal = NEVER
                    self._tell(job, "tokens")
                    rung = True
            elif job.running and job.served_goal - job.clock_base <= service:
                job.served_goal = NEVER
                self._tell(job, "served")
                rung = True
        if self.waited and self.waited[0][0] <= now:
            return self._ring_waited(now) or rung
        return rung

    def _ring_waited(self, now: int) -> bool:
        heap = self.waited
        turns: list[tuple[int, int, Job]] = []
        while heap and heap[0][0] <= now:
            at, id, job = pop(heap)
            if waited_at(job) == at:
                turns.append((job.arrival, id, job))
        if len(turns) > 1:
            turns.sort()
        return self.ring_waited([job for _, _, job in turns], now)

    def ring_waited(self, jobs: Iterable[Job], now: int) -> bool:
        """Each of these rings that has waited too long and still has at its turn. Returns whether any did."""
        rung = False
        for job in jobs:
            if waited_at(job) <= now:
                job.since = now
                self.watch_waited(job)
                self._tell(job, "waited")
                rung = True
        return rung

    def _tell(self, job: Job, why: str) -> None:
        try:
            self.policy.alarm(job, why)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise PolicyError(self.policy, "alarm", job, error) from error
