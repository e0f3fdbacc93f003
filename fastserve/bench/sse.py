"""Incremental parser of server-sent events (HTML standard, section 9.2.6). Sans-IO."""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """name: its `event:` field, "" without one. data: its `data:` lines, joined by newlines."""

    name: str
    data: str


class EventParser:
    """feed() accepts chunks split anywhere. An event is complete at its blank line; the rest is buffered."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False  # a line feed now belongs to the carriage return before it
        self._begun = False
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes, in order."""
        if not chunk:
            return []
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
        self._after_cr = chunk[-1:] == b"\r"
        data = self._rest + chunk
        if not self._begun:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._rest = data
                return []
            self._begun = True
            data = data.removeprefix(_BOM)
        *lines, self._rest = _LINE_END.split(data)
        events: list[Event] = []
        for line in lines:
            if line:
                self._line(line)
                continue
            if self._data:
                events.append(Event(self._name, "\n".join(self._data)))
                self._data = []
            self._name = ""
        return events

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" ").decode(errors="replace"))
        elif name == b"event":
            self._name = value.removeprefix(b" ").decode(errors="replace")
