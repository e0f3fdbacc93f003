"""InputPool: the threads on which long inputs are parsed and tokenized. /metrics and the job store have others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastserve.server.api.errors import ApiError

Result = TypeVar("Result")

THREADS = 2
WAITING = 256
"""Inputs that may wait for a thread, beside THREADS that are worked on."""


class InputPool:
    """held: bytes of bodies that have arrived and are not parsed yet. most: how many there may be, in all."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self.waiting = 0
        self.threads = ThreadPoolExecutor(THREADS, "fastserve-input")

    def hold(self, size: int) -> None:
        """Counts so many bytes; the caller lets them go. Raises ApiError 503."""
        if self.held + size > self.most:
            raise ApiError(503, "the server is reading as many bodies as it can hold; try again", retry_after=1)
        self.held += size

    def let_go(self, size: int) -> None:
        self.held -= size

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of work() on one of the threads. Raises ApiError 503 when too many wait already."""
        if self.waiting >= THREADS + WAITING:
            raise ApiError(503, f"{WAITING} long requests wait to be read already; try again", retry_after=1)
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, work)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
