"""Holding: which waiting jobs the policy holds back, and when the Scheduler overrules it.

A held job is not offered for admission until it is released. Its `waited` alarms ring though nothing runs. Where
nothing runs, every live job is held and no alarm of theirs would ring, the oldest joins all the same: a machine does
not stand still for ever because nobody wakes it. So it is, too, when the policy has been woken many times in a row and
has released nobody.
"""

from __future__ import annotations

from fastserve.sched.alarms import Alarms, waited_at
from fastserve.sched.batching import Batching
from fastserve.sched.job import NEVER, Hold, Job, Meter, age
from fastserve.sched.ranking import Ranking

PATIENCE = 10_000
"""Wake-ups while nothing runs, after each of which everybody was still held: so many in a row and it is overruled."""


class Holding:
    """Of one Scheduler. live: its jobs, in the order of their submission."""

    __slots__ = ("alarms", "fixed", "jobs", "live", "meter", "overruled", "patience", "ranking", "wakes")

    def __init__(self, live: dict[Job, None], ranking: Ranking, alarms: Alarms, meter: Meter) -> None:
        self.live = live
        self.ranking = ranking
        self.alarms = alarms
        self.meter = meter
        self.jobs: dict[Job, None] = {}
        self.fixed = False  # the next batch is being chosen: who is held, and what is kept, must stay as it is
        self.overruled = 0  # how many joined though they were held
        self.patience = PATIENCE
        self.wakes = 0  # since somebody was released

    def check(self, what: str) -> None:
        """ValueError while the next batch is being chosen."""
        if self.fixed:
            raise ValueError(
                f"{what}() from rank() or waiting(), which say who goes first and decide nothing: call it in arrive(), "
                "depart(), alarm() or ended()"
            )

    def hold(self, job: Job) -> None:
        """ValueError if it runs. One that is held already goes on being held."""
        self.check("hold")
        if job.running:
            raise ValueError(
                f"job {job.id} runs and cannot be held back: hold a job when it arrives, or while it waits; to take "
                f"its place away give another one a better rank"
            )
        if job not in self.jobs:
            if job.hold is None:
                job.hold = Hold()
            job.hold.on = True
            job.hold.base -= self.meter.now
            self.jobs[job] = self.ranking.dirty[job] = None

    def release(self, job: Job) -> None:
        """One that is not held is left alone."""
        self.check("release")
        if job in self.jobs:
            self.end(job, self.meter.now)
            self.wakes = 0
            self.ranking.dirty[job] = None

    def end(self, job: Job, at: int) -> Hold:
        """It is held no longer, since `at` (ns)."""
        hold = job.hold
        assert hold is not None
        hold.on = False
        hold.base += at
        del self.jobs[job]
        return hold

    def overrule(self, job: Job, at: int) -> None:
        """It joins though it is held."""
        self.end(job, at).overruled = True
        self.wakes = 0
        self.overruled += 1

    def first(self) -> Job | None:
        """Where every live job is held: who joins all the same, if anybody does."""
        if self.wakes < self.patience:
            for job in self.jobs:
                if job.waited:
                    return None
        return min(self.jobs, key=age)

    def oldest(self) -> int:
        """ns: when the first of those who are not held arrived; NEVER if all are."""
        return next((job.arrival for job in self.live if job not in self.jobs), NEVER)

    # -- while nothing runs ----------------------------------------------------------------------------------------

    def opens_at(self, batching: Batching) -> int:
        """ns: the next alarm of a held job, or when admission opens by itself to whoever may join; NEVER."""
        at = min([waited_at(job) for job in self.jobs])
        oldest = self.oldest()
        if oldest == NEVER:
            first = self.first()
            if first is None:
                return at
            oldest = first.arrival
        opens = batching.opens_at(oldest)
        return min(at, opens) if opens > self.meter.now else at

    def ring(self, now: int) -> bool:
        """The alarms of held jobs that are due ring. Returns whether any has."""
        due = [job for job in self.jobs if waited_at(job) <= now]
        if not due:
            return False
        self.wakes += 1
        return self.alarms.ring_waited(sorted(due, key=age), now)
