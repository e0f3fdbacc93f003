"""Collector: the answer of a chat as it passes, whole or as a stream, of OpenAI's route or of the native one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastserve.gateway.sse import Events

ENDS = ("stop", "length", "truncated", "tool_calls", "function_call")
"""Reasons of an answer that is complete."""


class Collector:
    """feed() what passes of a body, in order. most: bytes of text that are kept; an answer beyond is not complete.

    message: the assistant's, once the answer is complete.
    """

    def __init__(self, stream: bool, most: int) -> None:
        self.most = most
        self.events = Events() if stream else None
        self.whole = bytearray()
        self.texts: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.size = 0
        self.reason: str | None = None
        self.failed = False
        self.final = False  # the native route's last event has come

    def feed(self, data: bytes) -> None:
        if self.failed:
            return
        if self.events is None:
            self.whole += data
            self._count(len(data))
            return
        for event in self.events.feed(data):
            self._event(event)
        self.failed = self.failed or self.events.broken

    @property
    def over(self) -> bool:
        """Whether a stream has said that it is complete."""
        return (
            not self.failed and self.reason in ENDS and (self.final or (self.events is not None and self.events.done))
        )

    def end(self) -> Mapping[str, Any] | None:
        """The assistant's message; None where the answer is not complete, or longer than is kept."""
        if self.events is not None:
            for event in self.events.end():
                self._event(event)
        elif not self.failed:
            self._object()
        if self.failed or self.reason not in ENDS:
            return None
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.texts)}
        if self.calls:
            message["tool_calls"] = list(self.calls.values())
        return message

    def _count(self, more: int) -> None:
        self.size += more
        if self.size > self.most:
            self.failed = True
            self.whole.clear()
            self.texts.clear()
            self.calls.clear()

    def _object(self) -> None:
        try:
            found = json.loads(self.whole)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.failed = True
            return
        choice = _choice(found) or found
        message = choice.get("message")
        self.reason = choice.get("finish_reason")
        self._said(message if isinstance(message, dict) else {})

    def _event(self, event: Mapping[str, Any]) -> None:
        if event.get("error"):
            self.failed = True
            return
        choice = _choice(event)
        if choice is not None:
            self.reason = choice.get("finish_reason") or self.reason
            delta = choice.get("delta")
            self._said(delta if isinstance(delta, dict) else {})
        elif "is_final" in event:  # of the native route
            self._said({"content": event.get("text")})
            self.final = bool(event["is_final"])
            self.reason = event.get("finish_reason") or self.reason

    def _said(self, message: Mapping[str, Any]) -> None:
        text = message.get("content")
        if isinstance(text, str) and text:
            self.texts.append(text)
            self._count(len(text))
        calls = message.get("tool_calls")
        for at, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                self._call(at, call)

    def _call(self, at: int, call: Mapping[str, Any]) -> None:
        index = call.get("index")
        empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        known = self.calls.setdefault(index if isinstance(index, int) else at, empty)
        function = call.get("function")
        known["id"] = call.get("id") or known["id"]
        if not isinstance(function, dict):
            return
        for name in ("name", "arguments"):
            more = str(function.get(name) or "")
            known["function"][name] += more
            self._count(len(more) + 1)


def _choice(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = event.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
