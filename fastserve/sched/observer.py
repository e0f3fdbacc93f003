"""Observer: whoever looks at a run while it goes on. It is told what happens and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan, Transfer
from fastserve.sched.policy import Policy

LEVEL = re.compile(r"Q(\d+)\b")


class Observer:
    """Every method has a default that does nothing. All times are ns.

    Order: arrived or refused, cancelled (while the inbox is drained); planned; sent, once for each copy of that plan;
    committed. A plan that was told has been run and committed, unless the run was interrupted.
    """

    def arrived(self, job: Job, now: int) -> None:
        """The Scheduler has taken it."""

    def refused(self, job: Job, now: int, why: str) -> None:
        """The Scheduler can never serve it."""

    def cancelled(self, job: Job, now: int) -> None:
        """Its client has gone; the next plan names it in `gone`."""

    def planned(self, plan: Plan) -> None:
        """Before it runs: jobs, ledger and plan.members show the state that the plan starts from."""

    def sent(self, transfer: Transfer) -> None:
        """A copy was given to the link; when it starts and ends is known from here on."""

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        """After it has run; of the finished jobs the policy knows nothing any more."""


class Observers(Observer):
    """Several as one."""

    def __init__(self, members: Sequence[Observer]) -> None:
        self.members = members

    def arrived(self, job: Job, now: int) -> None:
        for member in self.members:
            member.arrived(job, now)

    def refused(self, job: Job, now: int, why: str) -> None:
        for member in self.members:
            member.refused(job, now, why)

    def cancelled(self, job: Job, now: int) -> None:
        for member in self.members:
            member.cancelled(job, now)

    def planned(self, plan: Plan) -> None:
        for member in self.members:
            member.planned(plan)

    def sent(self, transfer: Transfer) -> None:
        for member in self.members:
            member.sent(transfer)

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        for member in self.members:
            member.committed(plan, outcome, finished, now)


def said(policy: Policy, job: Job) -> str:
    """What the policy says of a live job. Raises PolicyError where its explain() breaks."""
    try:
        return str(policy.explain(job))
    except (Exception, SystemExit) as error:
        raise PolicyError(policy, "explain", job, error) from error


def level(text: str) -> int | None:
    """The queue level that an explanation begins with, "Q3, 4 ms left" -> 3; None for a policy without levels."""
    found = LEVEL.match(text)
    return int(found[1]) if found else None
