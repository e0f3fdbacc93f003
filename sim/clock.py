"""The simulation clock: SimPy's Environment that can advance without an event when nothing else is due."""

from __future__ import annotations

import simpy


class Clock(simpy.Environment):
    """Whole nanoseconds. The one place that knows SimPy's private names (simpy 4).

    A process that keeps the time itself may go on without an event while `due` holds none until then: nobody could look
    at the clock meanwhile. Before it lets others run it waits with until(), which sets the clock right.
    """

    def __init__(self) -> None:
        super().__init__(initial_time=0)
        self.due = self._queue  # the events to come, the earliest first: a heap of (ns, ...)

    def until(self, time: int) -> simpy.Event:
        """An event at this time (ns); at once if it has passed."""
        return self.timeout(max(0, time - self._now))
