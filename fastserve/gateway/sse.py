"""The events of a stream as they pass: JSON objects of its `data:` lines."""

from __future__ import annotations

import json
from typing import Any, Final

LONGEST: Final = 8 << 20
"""Bytes of one line; a stream with a longer one is read no further."""


class Events:
    """feed() what passes, in order. done: `[DONE]` has come. broken: it is no stream that can be read."""

    def __init__(self) -> None:
        self.rest = b""
        self.done = False
        self.broken = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Objects of the lines that are complete now."""
        if self.broken:
            return []
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > LONGEST:
            self.broken, self.rest = True, b""
        return [event for line in lines if (event := self._event(line)) is not None]

    def end(self) -> list[dict[str, Any]]:
        """Of a last line that lacks its end."""
        return self.feed(b"\n") if self.rest else []

    def _event(self, line: bytes) -> dict[str, Any] | None:
        if not line.startswith(b"data:"):
            return None
        text = line[5:].strip()
        if text == b"[DONE]":
            self.done = True
            return None
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            self.broken = bool(text)
            return None
        return event if isinstance(event, dict) else None
