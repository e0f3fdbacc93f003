"""The link of a simulated world: the modelled one, and the SimPy process that carries its transfers."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

import simpy

from fastserve import hardware
from fastserve.sched.job import Copy
from fastserve.sched.link import ModelledLink
from fastserve.sched.plan import Transfer


class Link(ModelledLink):
    """The SimPy process carries the transfers and counts the busy time; it decides nothing."""

    def __init__(self, model: hardware.Link, block_bytes: int) -> None:
        super().__init__(lambda blocks, out: model.copy_ns(blocks * block_bytes, out), model.duplex)
        self.queue: deque[Transfer] = deque()  # not yet carried, in the order they were asked for
        self.busy_ns = {True: 0, False: 0}
        self.work: simpy.Event | None = None

    def send(self, copy: Copy) -> None:
        transfer = self.transfer(copy)
        self.queue.append(transfer)
        if self.work is not None and not self.work.triggered:
            self.work.succeed()

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
