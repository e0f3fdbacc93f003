"""How a client runs so that it keeps its schedule: on the fastest event loop, with sockets enough, uninterrupted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def on_best_loop(work: Coroutine[Any, Any, T]) -> tuple[T, str]:
    """On uvloop where it is installed: its timers and sockets cost less than half. What came, and the loop's name."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(work), "asyncio"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work), "uvloop"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Sockets for an open loop under overload; and no collection walks through thousands of prompts meanwhile."""
    _more_sockets()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _more_sockets() -> None:
    """An open loop under overload needs a socket for each waiting request."""
    try:
        import resource
    except ModuleNotFoundError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
