"""TraceFile: a Chrome trace (a JSON array of events) as it grows, which several runs may share, one group each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

from fastserve.observers.lines import Lines, Out


class TraceFile:
    """out: as Lines takes it. A file that is our own is whole JSON after every event, also where the process is killed.

    Groups and tracks are the viewers' processes and threads. All have numbers of their own: some viewers name a thread
    by its number alone, and draw one that has its process's number as the main one.
    """

    def __init__(self, out: Out) -> None:
        self._lines = Lines(out, end="\n]\n")
        self._lines.write("[\n")
        self._first = True
        self._numbers = count(1)
        self._flows = count(1)
        self._groups = 0
        self._tracks: dict[int, int] = {}  # by group: how many

    def group(self, name: str) -> int:
        """A new one, below those that there are; returns its number, `pid`."""
        pid = next(self._numbers)
        self._about("process", pid, pid, name, self._groups)
        self._groups += 1
        self._tracks[pid] = 0
        return pid

    def track(self, pid: int, name: str, place: int | None = None) -> int:
        """A new one of this group, drawn at `place`, else below those that there are; returns its number, `tid`."""
        tid = next(self._numbers)
        self._about("thread", pid, tid, name, self._tracks[pid] if place is None else place)
        self._tracks[pid] += 1
        return tid

    def flow(self) -> str:
        """A new name for what arrows join."""
        return hex(next(self._flows))

    def event(self, event: Mapping[str, Any]) -> None:
        self._lines.write(("" if self._first else ",\n") + json.dumps(event))
        self._first = False

    def close(self) -> None:
        """May be called again."""
        self._lines.close()

    def _about(self, kind: str, pid: int, tid: int, name: str, place: int) -> None:
        """Names, and where to draw it."""
        shared = {"ph": "M", "pid": pid, "tid": tid, "ts": 0}
        self.event({"name": f"{kind}_name", **shared, "args": {"name": name}})
        self.event({"name": f"{kind}_sort_index", **shared, "args": {"sort_index": place}})
