"""A stub server beside the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastserve.bench.stub import Behaviour, Stub, address

Answer = Callable[[int, dict[str, Any]], Behaviour]


class Served:
    """A Stub on a free port, in a thread with a loop of its own."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        server = await self.stub.start()
        self.url = address(server)
        self._ready.set()
        await self._stop.wait()
        server.close()
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """serve(answer, **fields of Stub) -> Served; closed after the test."""
    open_ones: list[Served] = []

    def start(answer: Answer | None = None, **fields: Any) -> Served:
        stub = Stub(**fields) if answer is None else Stub(answer, **fields)
        open_ones.append(Served(stub))
        return open_ones[-1]

    yield start
    for served in open_ones:
        served.close()
