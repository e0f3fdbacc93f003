"""A fixed piece of work by which speeds of different machines and minutes can be compared.

The simulator's first prototype (interpreted, inside SimPy, without records; in no repository) is what its speed is
stated against. Here is a loop of the same kind of work, in plain Python on any machine: requests as objects in heaps,
sorted lists and dicts, whole-number arithmetic, a SimPy timeout for each plan. How many turns of it take as long as the
prototype took for 19,000 requests was measured once, interleaved, on Python 3.11; within some 5 % this is a constant.
"""

from __future__ import annotations

import gc
import time  # noqa: TID251  a benchmark reads a clock; nothing that a replay computes does
from bisect import insort
from collections.abc import Generator
from heapq import heappop, heappush
from typing import Any

import simpy

TURNS = {"fcfs": 375_000, "sj-mlfq": 900_000}
"""As long as the prototype took for 19,000 requests of the Azure conversation trace at 1.86 a second, 64 slots."""


class _Request:
    __slots__ = ("arrival", "generated", "id", "left", "rank")

    def __init__(self, id: int) -> None:
        self.id = id
        self.arrival = id * 1000
        self.left = id * 7919 % 13
        self.generated = 0
        self.rank = id * 104_729 % 997


def measure(turns: int) -> float:
    """CPU seconds of so many turns."""
    env = simpy.Environment()
    alarms: list[tuple[int, int, _Request]] = []
    queue: list[tuple[int, int, _Request]] = []
    live: dict[_Request, None] = {}
    clock = 0

    def turn(id: int) -> int:
        nonlocal clock
        request = _Request(id)
        live[request] = None
        insort(queue, (request.rank, id, request))
        heappush(alarms, (clock + request.left * 500, id, request))
        if len(queue) > 64:
            _, _, first = queue.pop(0)
            first.generated += 1
            clock += first.left * 100 + first.arrival % 7
            del live[first]
        while alarms and alarms[0][0] <= clock:
            _, _, other = heappop(alarms)
            other.left = max(0, other.left - 1)
        return 1 + (clock & 3)

    def process() -> Generator[simpy.Event, Any, None]:
        for id in range(turns):
            yield env.timeout(turn(id))

    env.process(process())
    collected = gc.isenabled()
    gc.collect()
    gc.disable()
    began = time.process_time()
    env.run()
    took = time.process_time() - began
    if collected:
        gc.enable()
    return took
