"""Clocks of the engine: integer nanoseconds since it started. Nothing but these reads the time or sleeps."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from fastserve.sched.job import NEVER


class Clock(Protocol):
    """now() from any thread; wait() and sleep_until() from the engine's thread only."""

    def now(self) -> int: ...
    def wait(self, condition: threading.Condition, until: int) -> None:
        """With the condition held: until it is notified or the time has come, whichever is first."""
        ...

    def sleep_until(self, at: int) -> None: ...


class WallClock:
    """Real time; with speed 10 each real second counts as ten."""

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"clock speed {speed}: give a number above 0")
        self.speed = speed
        self.origin = time.perf_counter_ns()

    def now(self) -> int:
        passed = time.perf_counter_ns() - self.origin
        return passed if self.speed == 1.0 else round(passed * self.speed)

    def wait(self, condition: threading.Condition, until: int) -> None:
        if until >= NEVER:
            condition.wait()
        else:
            condition.wait(min(self._seconds(until), threading.TIMEOUT_MAX))

    def sleep_until(self, at: int) -> None:
        while (seconds := self._seconds(at)) > 0:
            time.sleep(seconds)

    def _seconds(self, at: int) -> float:
        return max(0.0, (at - self.now()) / self.speed / 1e9)


class VirtualClock:
    """Simulated time: a sleep advances it at once, so a run does not depend on the machine's speed."""

    def __init__(self) -> None:
        self._now = 0

    def now(self) -> int:
        return self._now

    def wait(self, condition: threading.Condition, until: int) -> None:
        if until >= NEVER:
            condition.wait()
        else:
            self.sleep_until(until)

    def sleep_until(self, at: int) -> None:
        self._now = max(self._now, at)
