"""The link between device and host: copies are served first come, first served, per direction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import simpy

from fastserve import hardware
from fastserve.sched.job import NEVER
from fastserve.sched.plan import Copy, Transfer


class Link:
    """One channel per direction, or one for both without duplex.

    A transfer's end is fixed when it is asked for, so the machine can look ahead; what has landed is told by comparing
    times, never by SimPy's order of events. The SimPy process carries the transfers and counts the busy time.
    """

    def __init__(self, model: hardware.Link, block_bytes: int) -> None:
        self.model = model
        self.block_bytes = block_bytes
        self.free_at = {True: 0, False: 0}  # by direction: ns, when its channel has nothing left to do
        self.moving: deque[Transfer] = deque()  # not yet told as landed, by end
        self.queue: deque[Transfer] = deque()  # not yet carried, in the order they were asked for
        self.busy_ns = {True: 0, False: 0}
        self.work: simpy.Event | None = None
        self.sent: Callable[[Transfer], None] | None = None  # told of every transfer

    def send(self, copy: Copy, at: int) -> int:
        """Asks for a copy that may not start before `at`. Returns when it ends (ns)."""
        out = copy.out
        start = max(at, self.free_at[out])
        end = start + self.model.copy_ns(copy.blocks * self.block_bytes, out)
        self.free_at[out] = end
        if not self.model.duplex:
            self.free_at[not out] = end
        transfer = Transfer(copy, start, end)
        self.queue.append(transfer)
        moving = self.moving
        if not moving or moving[-1].end <= end:
            moving.append(transfer)
        else:
            place = next(i for i, other in enumerate(moving) if other.end > end)
            moving.insert(place, transfer)
        if self.sent is not None:
            self.sent(transfer)
        if self.work is not None and not self.work.triggered:
            self.work.succeed()
        return end

    def ends(self, copy: Copy) -> int:
        """ns: when a copy that is on its way will have ended."""
        return next(transfer.end for transfer in self.moving if transfer.copy is copy)

    def next_end(self) -> int:
        return self.moving[0].end if self.moving else NEVER

    def landed(self, now: int) -> list[Copy]:
        """The copies that have ended by `now`; each is told once."""
        moving = self.moving
        done = []
        while moving and moving[0].end <= now:
            done.append(moving.popleft().copy)
        return done

    def process(self, env: simpy.Environment) -> Generator[simpy.Event, Any, None]:
        """SimPy: carries one transfer after the other to its end."""
        while True:
            if not self.queue:
                self.work = env.event()
                yield self.work
                self.work = None
                continue
            transfer = self.queue.popleft()
            if transfer.end > env.now:
                yield env.timeout(transfer.end - env.now)
            self.busy_ns[transfer.copy.out] += transfer.end - transfer.start
