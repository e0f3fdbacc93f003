"""The clock of a simulated world: SimPy's Environment, whose time may pass without an event while nothing is due."""

from __future__ import annotations

import simpy

STRIDE = 256
"""Once in so many stretches SimPy gets its turn all the same, and with it Ctrl-C."""


class Clock(simpy.Environment):
    """Whole nanoseconds. The one place that knows SimPy's private names (simpy 4: `_now`, and `_queue` by time)."""

    def __init__(self) -> None:
        super().__init__(initial_time=0)
        self._stretches = 0

    def jump(self, to: int) -> bool:
        """Sets the time to `to`, unless an event is due until then; False: the process has to wait for it as usual."""
        self._stretches += 1
        queue = self._queue
        if (queue and queue[0][0] <= to) or self._stretches % STRIDE == 0:
            return False
        self._now = to
        return True
