"""Residents: whose KV is in which sequence of the context, and whose is kept elsewhere; driven by Plans.

A sequence id is a row of the context, of which there are fewer than jobs that the ledger may hold on the device. So a
job that has left may have to lend its id: its state is set aside until it comes back, and counts as on the device.
Copies are made at once, between two steps, since no other thread may touch the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Protocol

from fastserve.backends.llamacpp.context import State
from fastserve.sched.job import Copy, Job
from fastserve.sched.link import carry
from fastserve.sched.plan import Plan


class Sequences(Protocol):
    """What holds them: see context.Context."""

    sequences: int

    def take_out(self, sequence: int) -> State: ...
    def put_in(self, sequence: int, state: State) -> None: ...
    def remove(self, sequence: int, first: int = 0) -> None: ...
    def clear(self) -> None: ...


class Residents:
    """context: empty. A plan's members are never more than it has sequences."""

    def __init__(self, context: Sequences) -> None:
        self.context = context
        self.free = list(range(context.sequences - 1, -1, -1))
        self.rows: dict[Job, int] = {}  # sequence of each job whose KV is in the context, in the order of arrival there
        self.aside: dict[Job, State] = {}  # on the device by the ledger, without a sequence
        self.away: dict[Job, State] = {}  # on the host
        self.set_aside = 0  # how often that was necessary
        self._landed: list[Copy] = []
        self._members: frozenset[Job] = frozenset()  # of the current plan

    def follow(self, plan: Plan) -> int:
        """Does what the plan asks and gives each member a sequence. Returns ns of copying."""
        for job in plan.gone:
            self.forget(job)
        if not (plan.moves or plan.joined):
            return 0
        began = perf_counter_ns()
        moved = len(self._landed) + self.set_aside
        self._members = frozenset(plan.members)
        for job in plan.drop:
            self._drop(job)
        carry(plan, self)
        back = False
        for job in plan.joined:
            if job not in self.rows:
                back |= job in self.aside
                self._place(job, self.aside.pop(job, None))
        copied = back or len(self._landed) + self.set_aside > moved
        return perf_counter_ns() - began if copied else 0

    def landed(self) -> list[Copy]:
        """The copies that have ended, each told once."""
        landed, self._landed = self._landed, []
        return landed

    def forget(self, job: Job) -> None:
        """It has departed."""
        self._drop(job)
        self.away.pop(job, None)

    def reset(self) -> None:
        """Forgets all KV."""
        self.context.clear()
        self.free = list(range(self.context.sequences - 1, -1, -1))
        self.rows.clear()
        self.aside.clear()
        self.away.clear()
        self._landed.clear()

    # -- a plan's copies -------------------------------------------------------------------------------------------

    def send(self, copy: Copy) -> None:
        """For carry(): it has ended when this returns."""
        job = copy.job
        if copy.out:
            self.away[job] = self.aside.pop(job) if job in self.aside else self._take_out(job)
        else:
            self._place(job, self.away[job])
            del self.away[job]
        self._landed.append(copy)

    def wait(self, copies: Sequence[Copy]) -> None:
        """For carry()."""

    def _place(self, job: Job, state: State | None) -> None:
        """Gives it a sequence, with this KV in it."""
        if not self.free:
            self._lend()
        row = self.free.pop()
        try:
            if state is not None:
                self.context.put_in(row, state)
        except BaseException:
            self.free.append(row)
            raise
        self.rows[job] = row

    def _lend(self) -> None:
        """The job that came first of those that are not in the batch is set aside."""
        job = next(job for job in self.rows if job not in self._members)
        self.aside[job] = self._take_out(job)
        self.set_aside += 1

    def _take_out(self, job: Job) -> State:
        state = self.context.take_out(self.rows[job])
        self.free.append(self.rows.pop(job))
        return state

    def _drop(self, job: Job) -> None:
        row = self.rows.pop(job, None)
        if row is not None:
            self.context.remove(row)
            self.free.append(row)
        self.aside.pop(job, None)
