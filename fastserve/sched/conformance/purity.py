"""Purity: hears a policy or a router read a clock or use the random module's shared generator, however these were
imported.
"""

from __future__ import annotations

import datetime
import gc
import random
import sys
import time  # noqa: TID251 - named to be recognised when a policy calls it; nothing here reads a clock
from collections.abc import Callable
from types import FrameType
from typing import Any

from fastserve.sched.conformance.errors import package, where

_CLOCKS: frozenset[object] = frozenset(
    getattr(time, name)
    for name in (
        "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time",
        "process_time_ns", "thread_time", "thread_time_ns", "clock_gettime", "clock_gettime_ns",
    )
    if hasattr(time, name)
)  # fmt: skip
_SHARED: object = getattr(random.random, "__self__", random)  # noqa: TID251 - the generator behind random.random()

_USE_NOW = "use self.now, integer nanoseconds that are right in the simulator and on the live machine alike"
_SEED_OWN = "seed one of its own in __init__: self.random = random.Random(seed)"


class Purity:
    """listen() around one call into a policy: the interpreter reports the C functions that are called meanwhile.

    Calls made by the logging module are not the policy's. A call of compiled code is not reported. use_now, seed_own:
    what to do instead.
    """

    def __init__(self, use_now: str = _USE_NOW, seed_own: str = _SEED_OWN) -> None:
        self.use_now = use_now
        self.seed_own = seed_own
        self.heard: str | None = None  # the first complaint: what was called, where, and what to do instead

    def listen(self, call: Callable[..., Any], *args: Any) -> Any:
        before = sys.getprofile()
        collects = gc.isenabled()
        gc.disable()  # what the collector calls back, with clocks of its own, is not the policy's
        sys.setprofile(self._hear)
        try:
            return call(*args)
        finally:
            sys.setprofile(before)
            if collects:
                gc.enable()

    def _hear(self, frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or self.heard is not None:
            return
        if function in _CLOCKS:
            if not _logs(frame):
                self.heard = f"reads the clock time.{function.__name__} ({where(frame)}); {self.use_now}"
            return
        owner = getattr(function, "__self__", None)
        if owner is _SHARED:
            self.heard = (
                f"uses the random module's shared generator ({where(frame)}), so two runs differ; {self.seed_own}"
            )
        elif isinstance(owner, type) and issubclass(owner, datetime.date) and function.__name__ in _NOW:
            self.heard = f"reads the clock {owner.__name__}.{function.__name__} ({where(frame)}); {self.use_now}"


_NOW = frozenset({"now", "utcnow", "today"})


def _logs(frame: FrameType) -> bool:
    return package(frame) == "logging"
