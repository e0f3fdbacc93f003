"""HostTier: units that the host remembers for the device.

Units are written through: when a job has completed its prefill, and again when it ends, those of its path that the host
lacks are copied there, from the first one on while it has room. So a unit that goes from the device later costs
nothing, and whoever comes finds it on the host. The host forgets its oldest units to make room, first those whose path
was written or ended first, of one path the deepest first, and none that a copy under way needs; so it has of every path
a whole beginning. A unit may be in both places, and loading it leaves the host's copy where it is.

A copy to the host holds the units of its path from the first one on, on the device too, until it has ended.
"""

from __future__ import annotations

from fastserve.sched.job import LEAVING, Copy, Job
from fastserve.sched.policy import Machine
from fastserve.sched.units import Ids, Range, Run, Tree


class HostTier:
    """room: units that the host has place for. unit: tokens of one, size: its blocks. machine: see quicker()."""

    __slots__ = ("_tails", "forgotten", "machine", "room", "size", "stores", "tree", "units")

    def __init__(self, room: int, unit: int, size: int, machine: Machine) -> None:
        self.room = room
        self.size = size
        self.machine = machine
        self.tree = Tree(unit)  # on the host, or on the way there; who holds a run is a copy out
        self.units = 0  # in the tree
        self.stores: list[Copy] = []  # copies out that no plan has told of yet
        self.forgotten: list[Range] = []  # and what has been forgotten for them
        self._tails: dict[Copy, Run] = {}  # of a copy under way the last run that it holds

    def quicker(self, here: int, there: int) -> bool:
        """Is it quicker to load the units here:there of a path than to compute them, each alone on an idle machine?"""
        unit = self.tree.unit
        computing = self.machine.prefill_ns(there * unit) - self.machine.prefill_ns(max(1, here * unit))
        return self.machine.load_ns((there - here) * unit) < computing

    def reach(self, ids: Ids, here: int, most: int) -> int:
        """How many of the first `most` units are there if those beyond the device's first `here` ones are loaded, where
        that is quicker than to compute them. Nothing of these is on its way out yet, for then the device has it.
        """
        if here < most and ids[0] in self.tree.first:
            there = self.tree.walk(ids, most)[1]
            if there > here and self.quicker(here, there):
                return there
        return here

    def take(self, job: Job, ids: Ids, whole: int) -> Copy | None:
        """The job holds so many units of this path, and has just computed them, or ends. Returns the copy of those that
        the host lacks; its job, a stand-in for that one, is to hold all up to the last of them until it has ended.
        """
        tree = self.tree
        at = tree.walk(ids, whole)[1]
        tail = self._hold(ids, at)
        free = self.room - self.units
        want = whole - at
        if want > free and tree.idle_units:
            gone = tree.shrink(min(want - free, tree.idle_units))
            lost = sum([end - start for _, start, end in gone])
            self.forgotten += gone
            self.units -= lost
            free += lost
        new = min(want, free)
        if new <= 0:
            self._let_go(tail)
            return None
        run = tree.first[ids[at]] = Run(ids, at, at + new, tail, 1, 0)
        tree.unite(tail, run)
        self.units += new
        left = Job(job.id, job.arrival, (at + new) * tree.unit + 1, client=job.client, program=job.program, ids=ids)
        left.place = LEAVING
        copy = Copy(left, new * self.size, True, (ids, at, at + new))
        self._tails[copy] = run
        self.stores.append(copy)
        return copy

    def finish(self, copy: Copy) -> None:
        """It has ended: what it alone held are the youngest units now."""
        self._let_go(self._tails.pop(copy))

    def forget_idle(self) -> list[Copy]:
        """All that no copy under way needs is forgotten. Returns the copies that no plan had told of: they are off."""
        stores = self.stores
        self.stores = []
        new: set[int] = set()  # units that are not there yet
        for copy in stores:
            assert copy.units is not None
            ids, start, end = copy.units
            new.update(ids[start:end])
            self.finish(copy)
        for ids, start, end in self.tree.shrink(self.tree.idle_units):
            self.units -= end - start
            while start < end and ids[end - 1] in new:
                end -= 1
            if start < end:
                self.forgotten.append((ids, start, end))
        return stores

    def told(self) -> None:
        """A plan that told of all this has been carried out."""
        if self.stores or self.forgotten:
            self.stores = []
            self.forgotten = []

    def clear(self) -> None:
        self.tree.clear()
        self.units = 0
        self.stores = []
        self.forgotten = []
        self._tails.clear()

    def _hold(self, ids: Ids, upto: int) -> Run | None:
        tree = self.tree
        tail: Run | None = None
        at = 0
        while at < upto:
            run = tree.cut(ids, at, upto)
            assert run is not None
            if run.holders == 0:
                tree.idle.pop(run, None)
                tree.idle_units -= run.end - at
            run.holders += 1
            tree.unite(tail, run)
            tail = run
            at = run.end
        return tail

    def _let_go(self, run: Run | None) -> None:
        tree = self.tree
        while run is not None:
            run.holders -= 1
            if run.holders == 0:
                tree.idle[run] = None
                tree.idle_units += run.end - run.start
            run = run.parent
