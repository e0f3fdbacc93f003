"""BlockManager: block tables and free lists of physical KV blocks, driven by Plans; consistent with the ledger.

A block is in one free list, in one job's table, in one unit that any number of tables begin with or that the host
remembers, or the destination of one copy. A block that a copy still reads may be free already; whoever takes it next
waits for that copy first.

Where prefixes are cached, jobs share blocks as the Plan says. The blocks of a unit are full and never written again, so
nothing is copied: a table begins with the blocks of the units that its job shares, and goes on with its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import perf_counter_ns
from typing import Protocol

from fastserve.sched.job import LEAVING, NOWHERE, Copy, Job
from fastserve.sched.link import carry
from fastserve.sched.plan import Plan
from fastserve.sched.units import Ids, Range


class Passage(Protocol):
    """A copy under way: see cache.Ticket."""

    def done(self) -> bool: ...
    def wait(self) -> None: ...


class Mover(Protocol):
    """What copies blocks between the pools: see cache.Cache."""

    def copy_out(self, device_blocks: list[int], host_blocks: list[int]) -> Passage: ...
    def copy_in(self, host_blocks: list[int], device_blocks: list[int]) -> Passage: ...


class Pool:
    """One memory's blocks: the free ones, and the copies that still read some of them."""

    __slots__ = ("free", "readers", "size", "waited")

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = list(range(size - 1, -1, -1))
        self.readers: dict[int, Passage] = {}  # by block: the last copy that reads it; those before end before it
        self.waited = 0  # ns, for readers

    def take(self, n: int) -> list[int]:
        """n free blocks that nobody reads. RuntimeError if there are fewer: then some count has drifted."""
        if n > len(self.free):
            raise RuntimeError(f"{n} KV blocks are needed, and {len(self.free)} of {self.size} are free; this is a bug")
        taken = [self.free.pop() for _ in range(n)]
        if self.readers:
            for block in taken:
                reader = self.readers.pop(block, None)
                if reader is not None and not reader.done():
                    began = perf_counter_ns()
                    reader.wait()
                    self.waited += perf_counter_ns() - began
        return taken

    def give(self, blocks: Iterable[int]) -> None:
        self.free += blocks

    def read(self, blocks: Iterable[int], by: Passage) -> None:
        for block in blocks:
            self.readers[block] = by

    def unread(self, blocks: Iterable[int], by: Passage) -> None:
        for block in blocks:
            if self.readers.get(block) is by:
                del self.readers[block]


class Move:
    """A copy under way. wanted: its job will be where the copy ends; else what it brings is nobody's."""

    __slots__ = ("copy", "device", "host", "passage", "wanted")

    def __init__(self, copy: Copy, device: list[int], host: list[int], passage: Passage) -> None:
        self.copy = copy
        self.device = device
        self.host = host
        self.passage = passage
        self.wanted = True


class BlockManager:
    """device, host: blocks in the pools. block: tokens in one. mover: the cache that copies. unit: tokens of what is
    shared, a whole number of blocks (None: one).
    """

    def __init__(self, device: int, host: int, block: int, mover: Mover, unit: int | None = None) -> None:
        self.block = block
        self.unit = unit or block
        self.size = self.unit // block  # blocks of a unit
        self.mover = mover
        self.device = Pool(device)
        self.host = Pool(host)
        self.tables: dict[Job, list[int]] = {}  # device blocks of each job, in the order of its tokens
        self.away: dict[Job, list[int]] = {}  # host blocks of each job
        self.moves: dict[Copy, Move] = {}  # under way, in the order of issue
        self.units: dict[int, list[int]] = {}  # device blocks of each unit, by its id
        self.stored: dict[int, list[int]] = {}  # host blocks of each unit that the host remembers
        self.shared: dict[Job, int] = {}  # units of its prompt that a job shares, if any: its table begins with these
        self.sharing = False  # whether plans cache prefixes
        self._sources: dict[Copy, list[int]] = {}  # of units that the current plan copies to the host, device blocks
        self._landed: list[Copy] = []  # ended, and not yet reported
        self._waited = 0  # ns, for the copies of the current plan

    def follow(self, plan: Plan) -> int:
        """Does what the plan asks and gives its members the blocks of their next tokens. Returns ns of waiting."""
        self.sharing = plan.shares is not None
        for job in plan.gone:
            self.forget(job)
        for job in plan.left:
            self._trim(job)
        stall = 0
        if plan.moves or plan.joined or plan.evict or plan.forget:
            waited = self.device.waited + self.host.waited
            stall = self._move(plan)
            stall += self.device.waited + self.host.waited - waited
        for job in plan.members:
            self._grow(job)
        return stall

    def computed(self, plan: Plan) -> None:
        """The step has run: others may find what its prefills have completed. Before the commit."""
        if plan.shares is not None:
            for job, tokens in plan.prefill:
                self._share(job, plan.first(job) + tokens)

    def answer(self, job: Job, ids: Ids) -> None:
        """It has ended: others may find the units that prompt and answer fill beyond those of its prompt. Before
        forget().
        """
        if self.shared.get(job, 0) == len(job.ids):
            whole = (job.prompt + job.generated - 1) // self.unit
            for at, id in enumerate(ids[: whole - len(job.ids)], len(job.ids)):
                self._name(job, at, id)

    def forget(self, job: Job) -> None:
        """It has departed: its own blocks are free, the destination of a copy under way once that has ended."""
        for move in self.moves.values():
            if move.copy.job is job:
                move.wanted = False
        self._give(job)
        self.host.give(self.away.pop(job, ()))

    def landed(self) -> list[Copy]:
        """The copies that have ended by now, each told once."""
        for move in [move for move in self.moves.values() if move.passage.done()]:
            self._land(move)
        landed = self._landed
        self._landed = []
        return landed

    def reset(self) -> None:
        """Waits for every copy and forgets all KV, reported or not."""
        for move in self.moves.values():
            with suppress(Exception):  # what it brought, or failed to bring, is forgotten as well
                move.passage.wait()
        self.moves.clear()
        self._landed.clear()
        self.tables.clear()
        self.away.clear()
        self.units.clear()
        self.stored.clear()
        self.shared.clear()
        self.device = Pool(self.device.size)
        self.host = Pool(self.host.size)

    def reach(self, job: Job, more: int) -> None:
        """Room for so many tokens beyond the next one: drafts. It stays until the job leaves, and is used again."""
        table = self.tables[job]
        lacking = -(-(job.prompt + job.generated + more) // self.block) - len(table)
        if lacking > 0:
            table += self.device.take(lacking)

    def table(self, job: Job) -> Sequence[int]:
        """Its device blocks, in the order of its tokens."""
        return self.tables[job]

    # -- a plan's moves --------------------------------------------------------------------------------------------

    def _move(self, plan: Plan) -> int:
        """The plan's moves. Returns ns of waiting for copies."""
        for job in plan.joined:
            if job.place is LEAVING:  # its blocks stay its own
                assert job.copy is not None
                self._abandon(job.copy)
        for job in plan.drop:
            self._give(job)
        for copy in plan.clear:
            if not copy.out:  # a prefetch gives way: its job stays on the host
                self._abandon(copy)
                self.shared.pop(copy.job, None)
        self._sources = {copy: self._blocks_of(copy, self.units) for copy in plan.store}  # of these some go at once
        for ids, start, end in plan.evict:
            for at in range(start, end):
                self.device.give(self.units.pop(ids[at]))
        for ids, start, end in plan.forget:
            for at in range(start, end):
                self.host.give(self.stored.pop(ids[at]))
        loads = {copy.job: copy.units[1] for copy in plan.load if copy.units is not None}
        for job, tokens in plan.found.items():
            self.shared[job] = loads.get(job, tokens // self.unit)
            if job.place is NOWHERE:
                self.tables[job] = self._begin(job)
        self._waited = 0
        carry(plan, self)
        return self._waited

    def send(self, copy: Copy) -> None:
        """For carry()."""
        if copy.out:
            self._send_out(copy)
        else:
            self._send_in(copy)

    def wait(self, copies: Sequence[Copy]) -> None:
        """For carry(): returns when these have ended."""
        for copy in copies:
            self._waited += self._await(copy)

    def _send_out(self, copy: Copy) -> None:
        device = self.tables[copy.job] if copy.units is None else self._sources.pop(copy)
        host = self.host.take(len(device))
        passage = self.mover.copy_out(list(device), list(host))
        self.device.read(device, passage)
        self.moves[copy] = Move(copy, device, host, passage)

    def _send_in(self, copy: Copy) -> None:
        if copy.units is None:
            host = self.away[copy.job][self.size * self.shared.get(copy.job, 0) :]
        else:
            host = self._blocks_of(copy, self.stored)
        device = self.device.take(len(host))
        passage = self.mover.copy_in(list(host), list(device))
        self.host.read(host, passage)
        self.moves[copy] = Move(copy, device, host, passage)

    def _abandon(self, copy: Copy) -> None:
        """What it brings is nobody's; its source stays with the job."""
        self.moves[copy].wanted = False

    def _await(self, copy: Copy) -> int:
        """ns until it has ended."""
        move = self.moves[copy]
        began = perf_counter_ns()
        move.passage.wait()
        waited = perf_counter_ns() - began
        self._land(move)
        return waited

    def _land(self, move: Move) -> None:
        copy, job = move.copy, move.copy.job
        del self.moves[copy]
        self._landed.append(copy)
        source = self.device if copy.out else self.host
        source.unread(move.device if copy.out else move.host, move.passage)
        if copy.units is not None:
            self._land_units(copy, copy.units, move)
            return
        if not move.wanted:
            if copy.out:
                self.host.give(move.host)
            else:
                self.device.give(move.device)
            return
        if copy.out:
            self._give(job)
            self.away[job] = move.host
        else:
            self.host.give(self.away.pop(job))
            self.tables[job] = self._begin(job) + move.device
            if self.sharing:
                self._share(job, job.prompt + job.generated - 1)

    def _land_units(self, copy: Copy, units: Range, move: Move) -> None:
        """Units stay where they come from. Those that come in are the next ones of their job's table."""
        ids, start, end = units
        size = self.size
        if copy.out:
            for i, at in enumerate(range(start, end)):
                self.stored[ids[at]] = move.host[i * size : (i + 1) * size]
        else:
            self.tables.setdefault(copy.job, []).extend(move.device)
            for at in range(start, end):
                self._name(copy.job, at, ids[at])

    def _blocks_of(self, copy: Copy, units: dict[int, list[int]]) -> list[int]:
        """The blocks of its units, in one of the pools."""
        assert copy.units is not None
        ids, start, end = copy.units
        return [block for at in range(start, end) for block in units[ids[at]]]

    # -- units: what tables begin with ------------------------------------------------------------------------------

    def _begin(self, job: Job) -> list[int]:
        """The blocks of the units that it shares."""
        units = self.units
        return [block for id in job.ids[: self.shared.get(job, 0)] for block in units[id]]

    def _share(self, job: Job, tokens: int) -> None:
        """So many of its tokens are there, and with them its units."""
        ids = job.ids
        for at in range(self.shared.get(job, 0), min(len(ids), tokens // self.unit)):
            self._name(job, at, ids[at])

    def _name(self, job: Job, at: int, id: int) -> None:
        """The next unit of its table has this id: its blocks are the unit's. One that is there already stays, and takes
        the place of what the job has computed again.
        """
        table = self.tables[job]
        own = slice(at * self.size, (at + 1) * self.size)
        there = self.units.get(id)
        if there is None:
            self.units[id] = table[own]
        else:
            self.device.give(table[own])
            table[own] = there
        self.shared[job] = at + 1

    def _give(self, job: Job) -> None:
        """Its own blocks are free; the units that it shared stay until a plan evicts them."""
        self.device.give(self.tables.pop(job, [])[self.size * self.shared.pop(job, 0) :])

    def idle(self) -> int:
        """Blocks of units that no job shares: free room that remembers."""
        held = {id for job, shared in self.shared.items() for id in job.ids[:shared]}
        return self.size * (len(self.units) - len(self.units.keys() & held))

    def remembered(self) -> int:
        """Blocks of units on the host, or on their way there."""
        coming = sum([len(move.host) for move in self.moves.values() if move.copy.out and move.copy.units is not None])
        return self.size * len(self.stored) + coming

    # -- tables ----------------------------------------------------------------------------------------------------

    def _trim(self, job: Job) -> None:
        """It leaves the batch: what it keeps is its KV as it stands, all tokens but the newest."""
        table = self.tables[job]
        held = -(-(job.prompt + job.generated - 1) // self.block)
        self.device.give(table[held:])
        del table[held:]

    def _grow(self, job: Job) -> None:
        table = self.tables.setdefault(job, [])
        more = -(-(job.prompt + job.generated) // self.block) - len(table)
        if more > 0:
            table += self.device.take(more)
