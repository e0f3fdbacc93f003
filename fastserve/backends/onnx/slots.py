"""Slots: whose KV is in which slot, driven by Plans; consistent with the ledger, which counts blocks and names none.

Whoever decodes has one of the first slots, so that one call reads them all as neighbours; who has left the batch, or is
still being prefilled, has one behind them. A copy to or from the host is made at once, so none is ever under way
between two plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

from fastserve.backends.onnx.arrays import Arrays, Rows
from fastserve.sched.job import Copy, Job
from fastserve.sched.link import carry
from fastserve.sched.plan import Plan


class Slots:
    """pool: tokens of KV that the ledger lets jobs hold."""

    def __init__(self, arrays: Arrays, pool: int) -> None:
        self.arrays = arrays
        self.pool = pool
        self.owners: list[Job | None] = [None] * arrays.slots
        self.places: dict[Job, int] = {}
        self.lengths: list[int] = [0] * arrays.slots  # tokens whose K and V are there
        self.away: dict[Job, Rows] = {}  # on the host
        self._landed: list[Copy] = []

    # -- a plan ----------------------------------------------------------------------------------------------------

    def follow(self, plan: Plan, decoding: Sequence[Job]) -> int:
        """Does what the plan asks, gives its members places, and those who decode the first ones. Returns ns of copies.

        MemoryError where there is no memory for their places.
        """
        began = perf_counter_ns()
        for job in plan.gone:
            self.forget(job)
        if plan.moves:
            for job in plan.drop:
                self._leave(job)
            carry(plan, self)
        took = perf_counter_ns() - began
        for job in decoding:
            self._reach(self.lengths[self.places[job]] + 1)
        for job, tokens in plan.prefill:
            self._reach(plan.first(job) + tokens)
            if job not in self.places:
                self._enter(job)
        self._arrange(decoding)
        self._tidy()
        return took if plan.moves else 0

    def wrote(self, job: Job, length: int) -> None:
        """So many of its tokens have their K and V, or will have once the call that is prepared has run."""
        slot = self.places[job]
        self.lengths[slot] = length
        self.arrays.write(slot, length)

    def landed(self) -> list[Copy]:
        landed, self._landed = self._landed, []
        return landed

    def forget(self, job: Job) -> None:
        self._leave(job)
        self.away.pop(job, None)

    def reset(self) -> None:
        self.owners = [None] * self.arrays.slots
        self.lengths = [0] * self.arrays.slots
        self.places.clear()
        self.away.clear()
        self._landed.clear()
        self.arrays.give_back(self.lengths)

    # -- copies, for carry() ---------------------------------------------------------------------------------------

    def send(self, copy: Copy) -> None:
        job = copy.job
        if copy.out:
            slot = self.places[job]
            self.away[job] = self.arrays.take(slot, self.lengths[slot])
            self._leave(job)
        else:
            rows = self.away[job]
            self._reach(rows.shape[2])
            slot = self._enter(job)
            self.arrays.put(slot, rows)
            self.lengths[slot] = rows.shape[2]
            del self.away[job]
        self._landed.append(copy)

    def wait(self, copies: Sequence[Copy]) -> None:
        """Each has ended when it was sent."""

    # -- places ----------------------------------------------------------------------------------------------------

    def _enter(self, job: Job) -> int:
        """The first free slot is its own."""
        if len(self.owners) < self.arrays.slots:  # somebody measured with more
            self._grow(0, 0)
        slot = next((i for i, owner in enumerate(self.owners) if owner is None), None)
        if slot is None:
            slot = len(self.owners)
            self._grow(slot + 1, 0)
        self.owners[slot] = job
        self.places[job] = slot
        self.lengths[slot] = 0
        return slot

    def _leave(self, job: Job) -> None:
        slot = self.places.pop(job, None)
        if slot is not None:
            self.owners[slot] = None
            self.lengths[slot] = 0

    def _reach(self, length: int) -> None:
        if length > self.arrays.room:
            self._grow(0, length)

    def _grow(self, slots: int, room: int) -> None:
        self.arrays.grow(slots, room, self.lengths)
        more = self.arrays.slots - len(self.owners)
        self.owners += [None] * more
        self.lengths += [0] * more

    def _arrange(self, decoding: Sequence[Job]) -> None:
        """They change places with whoever is in the first ones."""
        count = len(decoding)
        outside = [job for job in decoding if self.places[job] >= count]
        if not outside:
            return
        inside = set(decoding)
        others = [slot for slot in range(count) if self.owners[slot] not in inside]
        for job, slot in zip(outside, others, strict=True):
            source, other = self.places[job], self.owners[slot]
            lengths = self.lengths
            if other is None:
                self.arrays.move(source, slot, lengths[source])
            else:
                self.arrays.swap(slot, lengths[slot], source, lengths[source])
                self.places[other] = source
            self.owners[slot], self.owners[source] = job, other
            lengths[slot], lengths[source] = lengths[source], lengths[slot]
            self.places[job] = slot

    def _tidy(self) -> None:
        """What is in use beyond the pool goes back."""
        if sum(self.arrays.touched) > self.pool + len(self.owners):
            self.arrays.give_back(self.lengths)
