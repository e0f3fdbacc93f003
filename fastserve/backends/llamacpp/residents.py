"""Residents: whose KV is in which sequence of the context, and whose is kept elsewhere; driven by Plans.

All sequences lie in one cache, and each step looks at all of it: what a job that has left keeps there makes the others'
steps longer. And there are fewer sequences than jobs that the ledger may hold on the device. So who has been away for a
while, or lends its sequence to another, is set aside: its state is kept elsewhere until it comes back, and counts as on
the device. Copies are made at once, between two steps, since no other thread may touch the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Final, Protocol

from fastserve.backends.llamacpp.context import State
from fastserve.sched.job import Copy, Job
from fastserve.sched.link import carry
from fastserve.sched.plan import Plan

PATIENCE: Final = 16
"""Steps after which who has left is set aside. SmolLM2 in 8 bits, one core, a job of 128 tokens: out and back it takes
1.9 ms, and in the cache it makes a step of eight others 0.23 ms longer (with plain attention 2.1 ms).
"""


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
        self.set_aside = 0  # how often that was done
        self._left: dict[Job, int] = {}  # step with which each of `rows` left that is in no batch, the first one first
        self._step = 0
        self._landed: list[Copy] = []
        self._copies = 0  # of the current plan

    def follow(self, plan: Plan) -> int:
        """Does what the plan asks and gives each member a sequence. Returns ns of copying."""
        for job in plan.gone:
            self.forget(job)
        began = perf_counter_ns()
        self._step += 1
        self._copies = 0
        for job in plan.left:
            self._left[job] = self._step
        for job in plan.drop:
            self._drop(job)
        if plan.moves:
            carry(plan, self)
        for job in plan.joined:
            self._left.pop(job, None)
        for job in plan.joined:
            if job not in self.rows:
                self._place(job, self.aside.pop(job, None))
        while self._left and next(iter(self._left.values())) + PATIENCE <= self._step:
            self._set_aside()
        return perf_counter_ns() - began if self._copies else 0

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
        self._left.clear()
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
            self._left[job] = self._step  # unless it joins now
        self._landed.append(copy)

    def wait(self, copies: Sequence[Copy]) -> None:
        """For carry()."""

    def _place(self, job: Job, state: State | None) -> None:
        """Gives it a sequence, with this KV in it."""
        if not self.free:
            self._set_aside()
        row = self.free.pop()
        try:
            if state is not None:
                self._copies += 1
                self.context.put_in(row, state)
        except BaseException:
            self.free.append(row)
            raise
        self.rows[job] = row

    def _set_aside(self) -> None:
        """Who has been away for longest."""
        job = next(iter(self._left))
        self.aside[job] = self._take_out(job)
        self.set_aside += 1

    def _take_out(self, job: Job) -> State:
        self._copies += 1
        state = self.context.take_out(self.rows[job])
        self.free.append(self.rows.pop(job))
        self._left.pop(job, None)
        return state

    def _drop(self, job: Job) -> None:
        row = self.rows.pop(job, None)
        if row is not None:
            self.context.remove(row)
            self.free.append(row)
        self.aside.pop(job, None)
        self._left.pop(job, None)
