"""Supervisor: which models are in memory. At most so many; the least recently used goes, never one with requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from fastserve.gateway.models.entry import Entry
from fastserve.gateway.models.events import Events
from fastserve.gateway.models.served_model import FAILED_S, LIVE, ServedModel, State, Traffic

log = logging.getLogger("fastserve.gateway")

RECOUNTED_S: Final = 0.15
"""s after which what a server says of its requests is newer than an answer that has just ended (its GET /load keeps a
look for 0.1 s)."""
TICK_S: Final = 0.5
"""s between two looks for models that were idle for long enough."""
RETRY_S: Final = 1
"""s after which a client may try again where all models are busy."""


class AllBusyError(RuntimeError):
    """Every place is taken by a model that has requests: 503, later perhaps not."""


class LoadFailedError(RuntimeError):
    """The model's server does not come to serve; the message has its last lines. Not tried again for retry_s."""

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Supervisor:
    """most: models in memory at a time, 0 for any number. idle_s: after so many seconds without a request a model is
    unloaded, 0 for never. start_s: how long a server may take to start. find: raises for a name that is none.
    """

    def __init__(
        self,
        find: Callable[[str], Entry],
        traffic: Traffic,
        events: Events,
        *,
        most: int,
        idle_s: float,
        start_s: float,
    ) -> None:
        self.find, self.traffic, self.events = find, traffic, events
        self.most, self.idle_s, self.start_s = most, idle_s, start_s
        self.models: dict[str, ServedModel] = {}
        self.loads = 0
        self._ticking: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Ends all servers."""
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*(served.stop() for served in self.models.values()), return_exceptions=True)
        for served in self.models.values():
            served.close()

    @contextlib.asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[ServedModel]:
        """The model, ready, and not unloaded while the block runs. Raises as ready() does."""
        served = await self.ready(name, leased=True)
        try:
            yield served
        finally:
            served.leases -= 1
            served.last_used = time.monotonic()

    async def ready(self, name: str, *, again: bool = False, leased: bool = False) -> ServedModel:
        """Loads it if it is not loaded; all who ask wait for one start, which a cancelled one does not stop.

        again: even if it has just failed. leased: the caller counts its `leases` down again.

        Raises AllBusyError or LoadFailedError, and what find() raises.
        """
        served = self._served(self.find(name))
        served.leases += 1
        try:
            await self._ready(served, again)
        except BaseException:
            served.leases -= 1
            raise
        if not leased:
            served.leases -= 1
        return served

    async def requests(self, name: str) -> int:
        """What the model has to do; its server is asked anew before that is said."""
        served = self.models.get(name)
        for pause in (0.0, RECOUNTED_S):
            if served is None or not served.requests:
                return 0
            await asyncio.sleep(pause)
            await self.traffic.look()
        return 0 if served is None else served.requests

    async def unload(self, name: str) -> bool:
        """Whether it was loaded. It ends with what it runs: ask requests() first."""
        served = self.models.get(name)
        if served is None or served.state not in (*LIVE, State.STOPPING):
            return False
        await served.stop()
        return True

    def changed(self, names: set[str]) -> None:
        """Their entries have: servers of the old ones go when they are idle, and no request comes to them."""
        for name in names & self.models.keys():
            served = self.models[name]
            if served.state in LIVE:
                served.stale = True
            elif served.state is not State.STOPPING and not served.leases:  # of a failed one it may be the cure
                self.models.pop(name).close()

    def keep(self, entry: Entry, seconds: float | None) -> None:
        """How long this one may be idle, instead of idle_s: below 0 for ever, None as the others."""
        self._served(entry).keep_s = seconds

    def bound(self, served: ServedModel) -> float:
        """Seconds that it may be idle; below 0 for ever."""
        return (self.idle_s or -1.0) if served.keep_s is None else served.keep_s

    # -- inside -------------------------------------------------------------------------------------------------------

    def _served(self, entry: Entry) -> ServedModel:
        served = self.models.get(entry.name)
        if served is None:
            served = self.models[entry.name] = ServedModel(
                entry, self.traffic, self.start_s, lambda kind, data: self.events.publish(entry.name, kind, **data)
            )
        elif served.entry != entry and served.state in (State.UNLOADED, State.FAILED):
            served.entry = entry
        return served

    async def _ready(self, served: ServedModel, again: bool) -> None:
        tried = False
        while True:
            await self._settled(served)
            if self._closed:
                raise AllBusyError("the gateway is ending")
            if served.state is State.READY:
                if not served.stale:
                    return
                await self._replaced(served)
                continue
            served.entry = self.find(served.entry.name)
            since = time.monotonic() - served.failed_at
            if served.state is State.FAILED and (tried or (not again and since < FAILED_S)):
                raise LoadFailedError(served.failure, max(0.0, FAILED_S - since))
            await self._recounted()
            if served.state is not State.UNLOADED and served.state is not State.FAILED:  # somebody else has begun it
                continue
            try:
                self._begin(served)
            except AllBusyError:
                await self._begin_later(served)
            tried = True

    async def _recounted(self) -> None:
        """Where one has to go, those that had something to do by their own word are asked anew: what has ended since
        would keep the least recently used.
        """
        live = [each for each in self.models.values() if each.state in LIVE]
        if self.most and len(live) >= self.most and any(each.requests > each.leases for each in live):
            await self.traffic.look()

    async def _begin_later(self, served: ServedModel) -> None:
        """Asks whether all are busy still, and again when servers count anew. Raises AllBusyError."""
        for pause in (0.0, RECOUNTED_S):
            await asyncio.sleep(pause)
            await self.traffic.look()
            if served.state is not State.UNLOADED and served.state is not State.FAILED:  # somebody else has begun it
                return
            with contextlib.suppress(AllBusyError):
                return self._begin(served)
        self._begin(served)

    async def _settled(self, served: ServedModel) -> None:
        served.waiting += 1
        try:
            await served.settled()
        finally:
            served.waiting -= 1

    async def _replaced(self, served: ServedModel) -> None:
        """Its entry has changed: requests of before end on the old server, those of now wait for it to go."""
        while served.state is State.READY and served.stale and self.traffic.running(served.entry):
            await asyncio.sleep(TICK_S / 10)
        if served.state is State.READY and served.stale:
            await served.stop()

    def _begin(self, served: ServedModel) -> None:
        """Makes room at once, so that two loads never take one place. Raises AllBusyError."""
        live = [each for each in self.models.values() if each.state in LIVE]
        going = []
        while self.most and len(live) >= self.most:
            idle = [each for each in live if each.state is not State.STARTING and not each.requests]
            if not idle:
                raise AllBusyError(
                    f"model {served.entry.name} is not loaded, and all {self.most} places are taken by models with "
                    f"requests ({', '.join(each.entry.name for each in live)}): try again later, or raise --models-max"
                )
            victim = min(idle, key=lambda each: each.last_used)
            live.remove(victim)
            going.append(victim.stopping())
            log.info("model %s is unloaded to make room for %s", victim.entry.name, served.entry.name)
        self.loads += 1
        served.begin(asyncio.gather(*going) if going else None)

    async def _tick(self) -> None:
        going: set[asyncio.Future[Any]] = set()
        while True:
            await asyncio.sleep(TICK_S)
            await self.traffic.look()
            now = time.monotonic()
            for served in list(self.models.values()):
                served.end_hung()
                if served.requests:
                    served.last_used = now
                elif served.state is State.READY and (served.stale or self._idle(served, now)):
                    why = "its entry has changed" if served.stale else "idle"
                    log.info("model %s is unloaded: %s", served.entry.name, why)
                    task = asyncio.ensure_future(served.stopping())
                    going.add(task)
                    task.add_done_callback(going.discard)

    def _idle(self, served: ServedModel, now: float) -> bool:
        return 0 <= self.bound(served) <= now - served.last_used
