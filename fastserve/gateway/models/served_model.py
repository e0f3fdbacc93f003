"""ServedModel: the life of one model's server. Started, watched, started again when it dies, stopped."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from fastserve.gateway.models.entry import Entry
from fastserve.gateway.models.server_process import ServerProcess, StartFailedError

log = logging.getLogger("fastserve.gateway")

BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 4.0)
"""s before each start after a death; a server that dies once more in a row is given up."""
KILLED_MOST: Final = 2
"""How often one that is killed before it serves is started again: what kills it may be that memory is short."""
HEALTHY_S: Final = 60.0
"""s after which a server that dies has not died in a row."""
FAILED_S: Final = 5.0
"""s for which a start that failed is not tried again by requests, which are told why it failed."""


class State(StrEnum):
    UNLOADED = "unloaded"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"


LIVE: Final = (State.STARTING, State.READY, State.RESTARTING)
"""States that take one of --models-max places."""
PASSING: Final = (State.STARTING, State.RESTARTING, State.STOPPING)
"""States that end by themselves, for which a request waits."""


class Traffic(Protocol):
    """What the gateway does with a server that runs."""

    def up(self, entry: Entry, process: ServerProcess) -> None: ...
    def down(self, entry: Entry) -> None: ...
    def running(self, entry: Entry) -> int:
        """Requests that it answers now."""
        ...

    def ill_s(self, entry: Entry) -> float:
        """Seconds for which it has failed its health checks and served nobody; 0 where it is well."""
        ...

    async def look(self) -> None:
        """Makes running() true again of those that may have ended what they had."""
        ...

    def whole(self, entry: Entry) -> Entry:
        """With the adapters that requests have loaded."""
        ...


class ServedModel:
    """Times are of time.monotonic(). told: is called with (kind, data) of what happens."""

    def __init__(self, entry: Entry, traffic: Traffic, start_s: float, told: Callable[[str, dict[str, Any]], None]):
        self.entry, self.traffic, self.start_s, self.told = entry, traffic, start_s, told
        self.state = State.UNLOADED
        self.process: ServerProcess | None = None
        self.folder: Path | None = None
        self.leases = 0  # requests that wait for it, or are on their way to it
        self.waiting = 0  # of those: that wait
        self.last_used = time.monotonic()
        self.keep_s: float | None = None  # instead of --idle-seconds; below 0: for ever
        self.failure = ""
        self.failed_at = 0.0
        self.deaths = 0  # in a row
        self.restarts = 0
        self.load_s: float | None = None  # of the last start
        self.stale = False  # its entry has changed, or is gone
        self._hung = ""  # why its server was ended
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()  # it is to stop
        self._life: asyncio.Task[None] | None = None

    @property
    def requests(self) -> int:
        """That run, wait for it, or are on their way."""
        return self.leases + (self.traffic.running(self.entry) if self.state is State.READY else 0)

    @property
    def memory(self) -> int | None:
        return None if self.process is None else self.process.memory

    async def settled(self) -> None:
        """Returns when its state is none that ends by itself."""
        while self.state in PASSING:
            await self._changed.wait()

    def begin(self, after: Awaitable[Any] | None = None) -> None:
        """Starts it, unless it lives. after: what must have ended before, since it holds the memory."""
        if self.state not in (State.UNLOADED, State.FAILED):
            return
        self.deaths, self.failure, self.stale = 0, "", False
        self.keep_s = None  # what a request asked for ended with the life before
        self._wake.clear()
        self._to(State.STARTING)
        self._life = asyncio.create_task(self._live(self._life, after))

    async def stop(self) -> None:
        """Ends its server, whatever it does; back when it is gone."""
        if self.state in LIVE:
            self._halt()
        if self._life is not None:
            await asyncio.shield(self._life)

    def stopping(self) -> Awaitable[None]:
        """stop(), of which the first half is done already: it takes no place any more."""
        if self.state in LIVE:
            self._halt()
        return self.stop()

    def end_hung(self) -> None:
        """Ends a server that lives and has failed its health checks for as long as a start may take: it dies then, and
        is started again as any that dies.
        """
        if self.state is State.READY and self.process is not None and self.traffic.ill_s(self.entry) > self.start_s:
            self._hung = f"its server has failed its health checks for {self.start_s:g} s, and was ended"
            self.process.kill()

    def _halt(self) -> None:
        if self.state is State.READY:
            self.traffic.down(self.entry)
        self._to(State.STOPPING)
        self._wake.set()

    async def _live(self, before: asyncio.Task[None] | None, after: Awaitable[Any] | None) -> None:
        """before: the last life, which may still be tidying up."""
        try:
            if before is not None:
                await asyncio.wait([before])
            if after is not None:
                await after
            while not self._wake.is_set():
                await self._once()
                if self.state is State.FAILED:
                    return
            self._to(State.UNLOADED)
        except Exception as error:  # a fault of ours must not leave requests waiting
            log.exception("model %s", self.entry.name)
            self._fail(f"model {self.entry.name}: {error}")
        finally:
            if self.process is not None:
                await self.process.stop()
                self.process = None

    async def _once(self) -> None:
        """One process, from its start to its end."""
        began = time.monotonic()
        process = self.process = ServerProcess(self.traffic.whole(self.entry), self._heard, self._folder())
        start = asyncio.create_task(process.start(self.start_s))
        if not await self._unless_stopped(start):
            return
        try:
            await start
        except StartFailedError as error:
            if self.deaths >= KILLED_MOST if error.killed else self.state is State.STARTING:
                self._fail(str(error))
            else:
                await self._died(str(error), began)
            return
        self.load_s = time.monotonic() - began
        self.last_used = time.monotonic()
        self.traffic.up(self.entry, process)
        self._to(State.READY, load_seconds=round(self.load_s, 3), pid=process.pid)
        ended = asyncio.create_task(process.ended())
        if not await self._unless_stopped(ended):
            return
        self.state = State.RESTARTING  # at once: who asks now waits; what comes of it is told below
        self.traffic.down(self.entry)
        message = process.told(self._hung or f"its server ended with status {await ended}")
        self._hung = ""
        await process.stop()
        await self._died(message, began)

    async def _died(self, message: str, began: float) -> None:
        """Waits before the next start, or gives up."""
        self.deaths = 1 if time.monotonic() - began > HEALTHY_S else self.deaths + 1
        log.warning("%s", message)
        if self.deaths > len(BACKOFF_S):
            self._fail(f"given up after {self.deaths} deaths in a row; {message}")
            return
        self.restarts += 1
        pause = BACKOFF_S[self.deaths - 1]
        self._to(State.RESTARTING, message=message, after_seconds=pause)
        if pause:
            waiting = asyncio.create_task(asyncio.sleep(pause))
            await self._unless_stopped(waiting)

    async def _unless_stopped(self, task: asyncio.Task[Any]) -> bool:
        """Whether the task is done; else the model is to stop, and the task and its process are ended."""
        wake = asyncio.create_task(self._wake.wait())
        await asyncio.wait((task, wake), return_when=asyncio.FIRST_COMPLETED)
        wake.cancel()
        if not self._wake.is_set():
            return True
        if self.process is not None:
            await self.process.stop()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        return False

    def _folder(self) -> Path:
        """Of durable jobs: the next process goes on with them, as long as this gateway lives."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="fastserve-model-state-"))
        return self.folder

    def close(self) -> None:
        """When its process has ended for good."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _heard(self, line: str) -> None:
        self.told("log", {"line": line})

    def _fail(self, message: str) -> None:
        self.failure, self.failed_at = message, time.monotonic()
        log.error("%s", message)
        self._to(State.FAILED, message=message)

    def _to(self, state: State, **data: Any) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        self.told("state", {"state": str(state), **data})
