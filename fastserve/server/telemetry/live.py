"""GET /live: SSE stream of scheduler events for the dashboard. Nothing is computed without viewers.

The first message is {"type": "snapshot", ...}; then, at most every 100 ms while something happens and every 500 ms
while jobs only run, {"type": "events", "events": [...], "stats": {...}, "jobs": [...]}. docs/serving.md has the fields.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastserve.engine import Engine
from fastserve.engine.snapshot import Snapshot
from fastserve.json_values import plain
from fastserve.server.api.streaming import KEEPALIVE, KEEPALIVE_S
from fastserve.server.jobs.jobs import JobRegistry
from fastserve.server.programs import owns, shown
from fastserve.server.telemetry.totals import Totals, percentiles

INTERVAL = 0.1
"""Seconds between two messages."""

PROGRESS_INTERVAL = 0.5
"""Seconds between progress updates while jobs run and nothing else happens."""

BACKLOG = 50
"""Unread messages after which a slow viewer gets a fresh snapshot instead of them."""


SHOWN = frozenset((
    "id", "type", "at", "state", "slot", "level", "was", "direction", "prompt_tokens", "prefilled_tokens",
    "output_tokens", "max_tokens", "arrival", "served", "preemptions", "place", "resumed", "blocks", "ahead", "reason",
    "found", "cached_tokens", "held_s", "held_back",
))  # fmt: skip
"""Fields of a job or an event that every viewer may see: what the scheduler does, not who it is done for."""

HIDDEN: dict[str, Any] = {"client": "", "program": "", "priority": 0, "job_id": None}
"""What stands for the other fields."""

QUEUE = re.compile(r"Q\d+\b")
"""A level of queues; whatever else a policy says of a job may name who it is for."""


class Viewer:
    """One open stream. client: the only client of whose jobs it may see more than SHOWN.

    None: without tokens nobody is told from another, so it may see all but their programs: whoever knows a session's
    id may take part in it.
    """

    def __init__(self, broadcaster: Broadcaster, client: str | None) -> None:
        self.broadcaster = broadcaster
        self.client = client
        self.messages: deque[dict[str, Any]] = deque()
        self.stale = True  # it needs a snapshot before events
        self.disconnected = False
        self.awake = asyncio.Event()

    def disconnect(self) -> None:
        self.disconnected = True
        self.awake.set()

    def send(self, message: dict[str, Any]) -> None:
        if len(self.messages) >= BACKLOG:
            self.messages.clear()
            self.stale = True
        self.messages.append(message)
        self.awake.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        self.broadcaster.join(self)
        try:
            while not self.disconnected:
                self.awake.clear()
                if self.stale:
                    self.stale = False
                    self.messages.clear()
                    yield self._event(await self.broadcaster.snapshot())
                while self.messages and not self.stale:
                    yield self._event(self.messages.popleft())
                try:
                    await asyncio.wait_for(self.awake.wait(), KEEPALIVE_S)
                except TimeoutError:
                    yield KEEPALIVE
        finally:
            self.broadcaster.leave(self)

    def _event(self, message: dict[str, Any]) -> bytes:
        for key in ("jobs", "events"):
            if key in message:
                message = {**message, key: [self._visible(entry) for entry in message[key]]}
        if "contexts" in message:
            message = {**message, "contexts": [self._context(row) for row in message["contexts"]]}
        return b"data: " + json.dumps(message, separators=(",", ":")).encode() + b"\n\n"

    def _context(self, row: dict[str, Any]) -> dict[str, Any]:
        """Others' contexts have a size and a state; without tokens all of them a client, and programs a number."""
        if self.client is None:
            return {**row, "name": ""}
        if row["client"] == self.client or owns(self.client, row["name"]):
            return {**row, "name": shown(self.client, row["name"])}
        return {**row, "client": "", "name": "", "why": ""}

    def _visible(self, entry: dict[str, Any]) -> dict[str, Any]:
        if self.client is None:
            return {**entry, "program": ""} if entry.get("program") else entry
        if entry.get("client", self.broadcaster.client(entry["id"])) == self.client:
            return {**entry, "program": shown(self.client, entry["program"])} if entry.get("program") else entry
        found = {name: value for name, value in entry.items() if name in SHOWN}
        found |= {name: value for name, value in HIDDEN.items() if name in entry}
        for name in ("level", "was"):
            if name in found:
                level = QUEUE.match(found[name])
                found[name] = level[0] if level else ""
        return found


class Broadcaster:
    """Sends engine events to all viewers; subscribed to the engine only while there are viewers."""

    def __init__(self, engine: Engine, registry: JobRegistry, totals: Totals) -> None:
        self.engine = engine
        self.registry = registry
        self.totals = totals
        self.viewers: set[Viewer] = set()
        self.events: deque[dict[str, Any]] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.scheduled = False  # a flush is scheduled
        self.flushes: set[asyncio.Task[None]] = set()
        self.progress: asyncio.TimerHandle | None = None

    def join(self, viewer: Viewer) -> None:
        self.loop = asyncio.get_running_loop()
        if not self.viewers:
            self.scheduled = False
            self.events.clear()
            self.engine.add_watcher(self._on_event)
        self.viewers.add(viewer)

    def leave(self, viewer: Viewer) -> None:
        self.viewers.discard(viewer)
        if not self.viewers:
            self.engine.remove_watcher(self._on_event)
            self._cancel_progress()

    def close(self) -> None:
        """Ends all streams."""
        for viewer in self.viewers:
            viewer.disconnect()

    def _on_event(self, event: dict[str, Any]) -> None:
        """On the engine's thread."""
        self.events.append(event)
        if not self.scheduled and self.loop is not None:
            self.scheduled = True
            self.loop.call_soon_threadsafe(self._schedule)

    def _schedule(self) -> None:
        assert self.loop is not None
        self.loop.call_later(INTERVAL, self._flush)

    def _flush(self) -> None:
        task = asyncio.ensure_future(self._send())
        self.flushes.add(task)
        task.add_done_callback(self.flushes.discard)

    async def _send(self) -> None:
        self.scheduled = False
        self._cancel_progress()
        events = [self.events.popleft() for _ in range(len(self.events))]
        if not self.viewers:
            return
        snapshot, contexts = await asyncio.to_thread(self._look, 0)
        self._schedule_progress(snapshot)
        names = {event["id"]: self._job_id(event["id"]) for event in events if event["type"] == "arrive"}
        message = {
            "type": "events",
            "events": [{**event, "job_id": names[event["id"]]} if event["id"] in names else event for event in events],
            **self._state(snapshot),
            **contexts,
        }
        for viewer in self.viewers:
            viewer.send(message)

    def _schedule_progress(self, snapshot: Snapshot) -> None:
        """While jobs run and there are viewers."""
        self._cancel_progress()
        if snapshot.running and self.viewers and self.loop is not None:
            self.progress = self.loop.call_later(PROGRESS_INTERVAL, self._on_progress)

    def _on_progress(self) -> None:
        if not self.scheduled:
            self._flush()

    def _cancel_progress(self) -> None:
        if self.progress is not None:
            self.progress.cancel()
            self.progress = None

    async def snapshot(self) -> dict[str, Any]:
        snapshot, contexts = await asyncio.to_thread(self._look, 1000)
        self._schedule_progress(snapshot)
        settings = {name: plain(value) for name, value in self.engine.settings.items()}
        return {
            "type": "snapshot",
            "model": self.engine.model_name,
            "settings": settings,
            "knobs": settings["knobs"],
            "derived": settings["derived"],
            **self._state(snapshot),
            **contexts,
        }

    def _look(self, most: int) -> tuple[Snapshot, dict[str, Any]]:
        """At one moment; waits for the engine."""
        return self.engine.look(lambda: (self.engine.snapshot(most), self.engine.feed.shown()))

    def _state(self, snapshot: Snapshot) -> dict[str, Any]:
        stats = replace(snapshot, jobs=()).to_json()
        del stats["jobs"]
        ends = list(self.totals.ends)
        for name in ("jct", "ttft", "tpot"):
            stats[name] = percentiles([getattr(end, name) for end in ends], 50, 95, 99)
        stats["hits"] = self.totals.hits.shown()
        stats["levels"] = [quantum / 1e9 for quantum in getattr(self.engine.loop.scheduler.policy, "quanta", ())]
        jobs = snapshot.to_json()["jobs"]
        return {"stats": stats, "jobs": [{**job, "job_id": self._job_id(job["id"])} for job in jobs]}

    def client(self, engine_id: int) -> str | None:
        """Client of a live job, by the engine's id."""
        job = self.registry.jobs.get(self._job_id(engine_id) or "")
        return None if job is None else job.client

    def _job_id(self, engine_id: int) -> str | None:
        """job_id of a live job, by the engine's id."""
        return self.registry.engine_ids.get(engine_id)
