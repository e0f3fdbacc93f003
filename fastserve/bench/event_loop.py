"""Environment of the client: uvloop if installed, more file descriptors, garbage collection frozen."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def on_best_loop(work: Coroutine[Any, Any, T]) -> tuple[T, str]:
    """Runs on uvloop if installed (timers and sockets cost less than half). Returns (result, name of the loop)."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(work), "asyncio"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work), "uvloop"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Raises the socket limit, and freezes the heap so that garbage collection skips the prompts."""
    _more_sockets()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _more_sockets() -> None:
    """An open loop under overload needs a socket for each request in flight."""
    try:
        import resource
    except ModuleNotFoundError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
