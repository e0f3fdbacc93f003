"""Observer: whoever looks at a run while it goes on, in any driver. It is told what happens and changes nothing.

    class Ends(Observer):
        def committed(self, plan, outcome, finished, now):
            for job in finished:
                print(f"{now / 1e9:.3f} s: job {job.id} ended with {job.generated} tokens")

Both drivers, the simulator's world and the engine's loop, make the same calls in the same order. Around the rest:
began, ended. While the inbox is drained: submitted or rejected, cancelled, program_ended. Then planned, or idle where
jobs wait and nothing can be done; copied, for each copy whose times are known by now; amended, where the body has done
other than planned; committed, or failed; after idle, ticked where alarms of jobs that are held back have rung. resized
comes after the commit or the failure that led to it, pool_resized and corrected before the next plan.
Where a policy breaks while the Scheduler is told of a job, an outcome or a tick, that call is made all the same, as the
last one before ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from fastserve.sched.errors import ObserverError, PolicyError
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan, Transfer
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.seats import Seats

LEVEL = re.compile(r"Q(\d+)\b")


class Run:
    """What an observer may read of its run. seats: who holds which place. about: what run it is, in plain values."""

    __slots__ = ("about", "scheduler", "seats")

    def __init__(self, scheduler: Scheduler, seats: Seats, about: Mapping[str, Any]) -> None:
        self.scheduler = scheduler
        self.seats = seats
        self.about = about


class Observer:
    """Every method has a default that does nothing. now: ns of the driver's clock.

    One that raises is logged once and told nothing more by an engine; in the simulator it ends the run.
    """

    def began(self, run: Run, now: int) -> None:
        """Before anything else. run.scheduler.live are the jobs that were there before: none, unless it is late."""

    def submitted(self, job: Job, now: int) -> None:
        """The Scheduler has taken it."""

    def rejected(self, job: Job, now: int, why: str) -> None:
        """The Scheduler can never serve it."""

    def cancelled(self, job: Job, now: int) -> None:
        """It has ended before its time, as job.finish says; the next plan names it in `gone`."""

    def program_ended(self, program: str, now: int) -> None:
        """The Scheduler has been told that nothing more of it will come."""

    def ticked(self, now: int) -> None:
        """Nothing runs, and alarms of jobs that are held back have rung."""

    def planned(self, plan: Plan, now: int) -> None:
        """Before it runs: jobs, ledger and plan.members show the state that the plan starts from; seats follow it.

        now: on a real clock a little later than plan.now, the boundary that the plan was made for.
        """

    def idle(self, now: int) -> None:
        """Jobs wait, and there is no plan until something comes or admission opens by itself; told once until then."""

    def copied(self, transfer: Transfer, now: int) -> None:
        """A copy of KV: on a modelled link when it is asked for, for its end is known then; else when it has ended."""

    def amended(self, plan: Plan, now: int) -> None:
        """The plan that was told last says from now on what the body has really done, see Scheduler.amend().

        plan.amended: with what. run.seats still shows who would hold a place if all had gone as planned.
        """

    def corrected(self, job: Job, tokens: int, now: int) -> None:
        """The body has counted again: it has so many tokens more, or fewer, than was told so far."""

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        """After it has run; of the finished jobs the policy knows nothing any more."""

    def failed(self, lost: Sequence[Job], now: int) -> None:
        """The step of the plan that was told last has failed, and all KV is forgotten.

        lost: who held a place before that plan, and has none now. run.seats still shows who would hold one by it.
        Requests that failed with the step are cancelled next.
        """

    def resized(self, slots: int, now: int) -> None:
        """From now on so many jobs at most share an iteration."""

    def pool_resized(self, blocks: int, now: int) -> None:
        """From now on the device has so many KV blocks."""

    def cache_reset(self, now: int) -> None:
        """Cached prefixes that no live job holds are forgotten, because somebody asked for it."""

    def ended(self, now: int) -> None:
        """The run is over, or has broken off, or this observer was detached: nothing more is told."""


Broken = Callable[[ObserverError], object]


class Observers(Observer):
    """All who look at one run: a driver tells this one, and need not where `members` is empty.

    broken: told of an observer that raised, which is then left out; None: the error is raised instead.
    """

    def __init__(
        self, scheduler: Scheduler, about: Mapping[str, Any] | None = None, broken: Broken | None = None
    ) -> None:
        self.members: tuple[Observer, ...] = ()
        self.run = Run(scheduler, Seats(scheduler.slots), dict(about or {}))
        self.broken = broken
        self._idle = False  # that has been told last

    # -- who looks; on the driver's thread, between two iterations -------------------------------------------------

    def attach(self, observer: Observer, now: int = 0) -> None:
        """One that is attached already is left alone."""
        if not self._has(observer):
            if not self.members:
                self.run.seats.settle(self.run.scheduler.running)
            self.members = (*self.members, observer)
            self._call(observer, "began", self.run, now)

    def detach(self, observer: Observer, now: int) -> None:
        """One that is not attached is left alone."""
        if self._has(observer):
            self._call(observer, "ended", now)
            self._leave_out(observer)

    def seats(self) -> Mapping[Job, int]:
        """Who holds which place, between two iterations."""
        if not self.members:
            self.run.seats.settle(self.run.scheduler.running)
        return self.run.seats.of

    def _has(self, observer: Observer) -> bool:
        return any(member is observer for member in self.members)

    def _leave_out(self, observer: Observer) -> None:
        self.members = tuple([member for member in self.members if member is not observer])

    # -- what they are told ----------------------------------------------------------------------------------------

    def _call(self, member: Observer, method: str, *facts: Any) -> None:
        try:
            getattr(member, method)(*facts)
        except (Exception, SystemExit) as error:
            if self.broken is None and isinstance(error, PolicyError):  # its explain(), most likely
                raise
            told = ObserverError(member, method, error)
            self._leave_out(member)
            if self.broken is None:
                raise told from error
            self.broken(told)

    def _tell(self, method: str, *facts: Any) -> None:
        self._idle = False
        for member in self.members:
            self._call(member, method, *facts)

    def last(self, method: str, *facts: Any) -> None:
        """The call in which the policy broke. What an observer raises at this has its cause there, and is not told."""
        for member in self.members:
            with suppress(Exception, SystemExit):
                getattr(member, method)(*facts)

    def submitted(self, job: Job, now: int) -> None:
        self._tell("submitted", job, now)

    def rejected(self, job: Job, now: int, why: str) -> None:
        self._tell("rejected", job, now, why)

    def cancelled(self, job: Job, now: int) -> None:
        self._tell("cancelled", job, now)
        self.run.seats.leave(job)

    def program_ended(self, program: str, now: int) -> None:
        self._tell("program_ended", program, now)

    def ticked(self, now: int) -> None:
        self._tell("ticked", now)

    def planned(self, plan: Plan, now: int) -> None:
        self.run.seats.follow(plan)
        self._tell("planned", plan, now)

    def amended(self, plan: Plan, now: int) -> None:
        self._tell("amended", plan, now)
        for job in self.run.seats.without(plan):
            self.run.seats.leave(job)

    def corrected(self, job: Job, tokens: int, now: int) -> None:
        self._tell("corrected", job, tokens, now)

    def idle(self, now: int) -> None:
        if not self._idle:
            self._tell("idle", now)
            self._idle = True

    def copied(self, transfer: Transfer, now: int) -> None:
        self._tell("copied", transfer, now)

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        self._tell("committed", plan, outcome, finished, now)
        for job in finished:
            self.run.seats.leave(job)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        self._tell("failed", lost, now)
        self.run.seats.clear()

    def resized(self, slots: int, now: int) -> None:
        self._tell("resized", slots, now)

    def pool_resized(self, blocks: int, now: int) -> None:
        self._tell("pool_resized", blocks, now)

    def cache_reset(self, now: int) -> None:
        self._tell("cache_reset", now)

    def ended(self, now: int) -> None:
        self._tell("ended", now)
        self.members = ()


def said(policy: Policy, job: Job) -> str:
    """What the policy says of a live job, and that it holds it back. Raises PolicyError where its explain() breaks."""
    try:
        text = str(policy.explain(job))
        return f"held back: {text}" if job.held_back else text
    except (Exception, SystemExit) as error:
        raise PolicyError(policy, "explain", job, error) from error


def level(text: str) -> int | None:
    """The queue level that an explanation begins with, "Q3, 4 ms left" -> 3; None for a policy without levels."""
    found = LEVEL.match(text)
    return int(found[1]) if found else None


def headline(text: str) -> str:
    """An explanation without what follows its first comma or colon: "Q3, 4 ms left" -> "Q3"."""
    return text.partition(",")[0].partition(":")[0]
