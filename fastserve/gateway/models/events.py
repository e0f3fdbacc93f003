"""Events: what happens to models, for those who watch a stream of it. A slow watcher loses the oldest, never memory."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

KEPT: Final = 256
"""Events that a watcher may be behind."""
MOST_WATCHERS: Final = 64
EVERY_S: Final = 10.0
"""s of silence after which a stream says that it is there."""


class Event(NamedTuple):
    """kind: state, progress, log or alive."""

    kind: str
    data: dict[str, Any]


class TooManyWatchersError(RuntimeError):
    """The bound on open event streams is reached."""


class _Watcher:
    def __init__(self) -> None:
        self.held: deque[Event] = deque(maxlen=KEPT)
        self.there = asyncio.Event()


class Events:
    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[_Watcher]] = defaultdict(set)
        self._closed = False

    def publish(self, name: str, kind: str, **data: Any) -> None:
        event = Event(kind, {"model_id": name, "time": round(time.time(), 3), **data})
        for watcher in self._watchers.get(name, ()):
            watcher.held.append(event)
            watcher.there.set()

    def watch(self, name: str, first: Callable[[], Event]) -> AsyncIterator[Event]:
        """`first` when the reading begins, then what is published, until close(). Raises TooManyWatchersError."""
        if sum(map(len, self._watchers.values())) >= MOST_WATCHERS:
            raise TooManyWatchersError(f"{MOST_WATCHERS} event streams are open already: close one")
        return self._stream(name, first)

    async def _stream(self, name: str, first: Callable[[], Event]) -> AsyncIterator[Event]:
        watcher = _Watcher()
        self._watchers[name].add(watcher)  # here, since a stream that is never read is never closed either
        try:
            yield first()
            while not self._closed:
                try:
                    await asyncio.wait_for(watcher.there.wait(), EVERY_S)
                except TimeoutError:
                    yield Event("alive", {})
                watcher.there.clear()
                while watcher.held:
                    yield watcher.held.popleft()
        finally:
            self._watchers[name].discard(watcher)
            if not self._watchers[name]:
                del self._watchers[name]

    def close(self) -> None:
        """Every stream ends."""
        self._closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.there.set()
