"""GET /live: the scheduler as it works, for the page. Nothing is computed while nobody looks.

The first message is {"type": "snapshot", ...}; then, at most every 100 ms while something happens and every 500 ms
while jobs only run, {"type": "events", "events": [...], "stats": {...}, "jobs": [...]}. docs/serving.md has the fields.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastserve.engine import Engine
from fastserve.engine.snapshot import Snapshot
from fastserve.policies.skip_join import PRESETS
from fastserve.server.api.streaming import SILENCE, WAIT
from fastserve.server.jobs.jobs import Board
from fastserve.server.telemetry.totals import Totals, percentiles

BEAT = 0.1
"""Seconds between two messages."""

PULSE = 0.5
"""Seconds until the progress of jobs that run is told although nothing else happens."""

BACKLOG = 50
"""Messages after which a viewer who does not read gets a fresh snapshot instead of them."""


class Viewer:
    """One open stream. client: whose jobs it may see by name; None: everybody's."""

    def __init__(self, hub: Hub, client: str | None) -> None:
        self.hub = hub
        self.client = client
        self.messages: deque[dict[str, Any]] = deque()
        self.stale = True  # it needs a snapshot before events make sense to it
        self.gone = False
        self.awake = asyncio.Event()

    def leave(self) -> None:
        self.gone = True
        self.awake.set()

    def tell(self, message: dict[str, Any]) -> None:
        if len(self.messages) >= BACKLOG:
            self.messages.clear()
            self.stale = True
        self.messages.append(message)
        self.awake.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        self.hub.join(self)
        try:
            while not self.gone:
                self.awake.clear()
                if self.stale:
                    self.stale = False
                    self.messages.clear()
                    yield self._event(await self.hub.snapshot())
                while self.messages and not self.stale:
                    yield self._event(self.messages.popleft())
                try:
                    await asyncio.wait_for(self.awake.wait(), SILENCE)
                except TimeoutError:
                    yield WAIT
        finally:
            self.hub.leave(self)

    def _event(self, message: dict[str, Any]) -> bytes:
        if self.client is not None:
            for key in ("jobs", "events"):
                if key in message:
                    own = [
                        {**entry, "client": ""} if entry.get("client", self.client) != self.client else entry
                        for entry in message[key]
                    ]
                    message = {**message, key: own}
        return b"data: " + json.dumps(message, separators=(",", ":")).encode() + b"\n\n"


class Hub:
    """Watches the engine while there are viewers."""

    def __init__(self, engine: Engine, board: Board, tally: Totals) -> None:
        self.engine = engine
        self.board = board
        self.tally = tally
        self.viewers: set[Viewer] = set()
        self.events: deque[dict[str, Any]] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.armed = False  # a beat is coming
        self.beats: set[asyncio.Task[None]] = set()
        self.pulse: asyncio.TimerHandle | None = None

    def join(self, viewer: Viewer) -> None:
        self.loop = asyncio.get_running_loop()
        if not self.viewers:
            self.armed = False
            self.events.clear()
            self.engine.add_watcher(self._saw)
        self.viewers.add(viewer)

    def leave(self, viewer: Viewer) -> None:
        self.viewers.discard(viewer)
        if not self.viewers:
            self.engine.remove_watcher(self._saw)
            self._quiet()

    def close(self) -> None:
        """Streams end."""
        for viewer in self.viewers:
            viewer.leave()

    def _saw(self, event: dict[str, Any]) -> None:
        """On the engine's thread."""
        self.events.append(event)
        if not self.armed and self.loop is not None:
            self.armed = True
            self.loop.call_soon_threadsafe(self._arm)

    def _arm(self) -> None:
        assert self.loop is not None
        self.loop.call_later(BEAT, self._beat)

    def _beat(self) -> None:
        task = asyncio.ensure_future(self._tell())
        self.beats.add(task)
        task.add_done_callback(self.beats.discard)

    async def _tell(self) -> None:
        self.armed = False
        self._quiet()
        events = [self.events.popleft() for _ in range(len(self.events))]
        if not self.viewers:
            return
        snapshot = await asyncio.to_thread(self.engine.snapshot, 0)
        self._go_on(snapshot)
        names = {event["id"]: self._name(event["id"]) for event in events if event["type"] == "arrive"}
        message = {
            "type": "events",
            "events": [{**event, "job_id": names[event["id"]]} if event["id"] in names else event for event in events],
            **self._state(snapshot),
        }
        for viewer in self.viewers:
            viewer.tell(message)

    def _go_on(self, snapshot: Snapshot) -> None:
        """While jobs run, and somebody looks."""
        self._quiet()
        if snapshot.running and self.viewers and self.loop is not None:
            self.pulse = self.loop.call_later(PULSE, self._pulse)

    def _pulse(self) -> None:
        if not self.armed:
            self._beat()

    def _quiet(self) -> None:
        if self.pulse is not None:
            self.pulse.cancel()
            self.pulse = None

    async def snapshot(self) -> dict[str, Any]:
        snapshot = await asyncio.to_thread(self.engine.snapshot)
        self._go_on(snapshot)
        settings = {name: _plain(value) for name, value in self.engine.settings.items()}
        return {
            "type": "snapshot",
            "model": self.engine.model_name,
            "settings": settings,
            "knobs": {name: _plain(value) for name, value in _knobs(self.engine).items()},
            **self._state(snapshot),
        }

    def _state(self, snapshot: Snapshot) -> dict[str, Any]:
        stats = replace(snapshot, jobs=()).to_json()
        del stats["jobs"]
        ends = list(self.tally.ends)
        for name in ("jct", "ttft", "tpot"):
            stats[name] = percentiles([getattr(end, name) for end in ends], 50, 95, 99)
        stats["levels"] = [quantum / 1e9 for quantum in getattr(self.engine.loop.scheduler.policy, "quanta", ())]
        jobs = snapshot.to_json()["jobs"]
        return {"stats": stats, "jobs": [{**job, "job_id": self._name(job["id"])} for job in jobs]}

    def _name(self, engine_id: int) -> str | None:
        """job_id of a live job, as the other routes know it."""
        return self.board.names.get(engine_id)


def _knobs(engine: Engine) -> dict[str, Any]:
    """Every setting of the policy: as given, else of its preset, else by default."""
    policy = engine.serving.policy
    found, given = policy.settings, policy.knobs
    if "preset" in found:
        found |= PRESETS.get(given.get("preset", found["preset"]), {})
    return found | dict(given)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
