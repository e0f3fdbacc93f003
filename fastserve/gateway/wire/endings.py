"""What a client is told when the answer of its upstream breaks off: in the stream's own format, between two events."""

from __future__ import annotations

import json
import re
from typing import Final, Literal, TypeAlias

from fastserve.server.api.errors import encoded, openai_body

Form: TypeAlias = Literal["openai", "native", "raw"]

ENDS: Final = (b"\n\n", b"\r\n\r\n")
LONGEST: Final = 1 << 16
"""Bytes of an event that is not complete; a longer one is passed on as it comes."""


DONE: Final = re.compile(rb"\ndata: ?\[DONE\]")


def form_of(path: str) -> Form:
    """The format of a route's streams."""
    if path in ("/v1/generate", "/stream"):
        return "raw"
    return "native" if path in ("/generate", "/generate/stream", "/chat") else "openai"


class Events:
    """An SSE answer on its way: feed() gives what may be passed on, all of it but the beginning of an event whose end
    has not come, so that an error stands between events. Whole events, as servers send them, are passed as they are.
    """

    __slots__ = ("count", "form", "held", "last", "request_id", "sent")

    def __init__(self, form: Form, request_id: str) -> None:
        self.form = form
        self.request_id = request_id
        self.held = b""
        self.last = b""
        self.count = 0  # lines of data
        self.sent = 0  # bytes

    def feed(self, data: bytes) -> bytes:
        if self.held:
            data, self.held = self.held + data, b""
        if not data.endswith(ENDS):
            cut = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
            if cut < 4 and len(data) <= LONGEST and not data.startswith(ENDS):
                self.held = data
                return b""
            if cut >= 4 and len(data) - cut <= LONGEST:
                data, self.held = data[:cut], data[cut:]
        self.count += data.count(b"data:")
        self.last = data
        self.sent += len(data)
        return data

    @property
    def complete(self) -> bool:
        """Whether the stream has said that it is over."""
        if self.form == "openai":
            return DONE.search((b"\n" + self.last)[-64:]) is not None  # and not where a text says so
        if self.form == "raw":
            return b"\nevent: done" in (b"\n" + self.last)[-64:]
        tail = self.last.rpartition(b"data:")[2]
        return b'"is_final":true' in tail.replace(b" ", b"")

    @property
    def tokens(self) -> int:
        """Output tokens: as usage says them, else events (which other servers may fill with several)."""
        found = usage_tokens(self.last)
        return found if found is not None else max(0, self.count - 1 - (self.form == "raw"))

    def broken(self, message: str) -> bytes:
        """The events that end the stream."""
        if self.form == "openai":
            return b"data: " + encoded(openai_body(502, message)) + b"\n\ndata: [DONE]\n\n"
        if self.form == "raw":
            return f"event: error\ndata: {' '.join(message.split())}\n\nevent: done\ndata: \n\n".encode()
        last = {
            "text": "", "token": "", "request_id": self.request_id, "is_final": True, "final": True,
            "finish_reason": "error", "error": message,
        }  # fmt: skip
        return b"data: " + encoded(last) + b"\n\n"


def usage_tokens(data: bytes) -> int | None:
    """completion_tokens of the last usage in this text; None where there is none."""
    for name in (b'"completion_tokens":', b'"tokens_generated":'):
        at = data.rfind(name)
        if at >= 0:
            digits = data[at + len(name) : at + len(name) + 16].lstrip()
            end = next((place for place, byte in enumerate(digits) if not 48 <= byte <= 57), len(digits))
            if end:
                return int(digits[:end])
    return None


def error_message(body: bytes) -> str:
    """What an error's body says, in OpenAI's form, FastAPI's or Ollama's; its beginning where it is none of them."""
    try:
        found = json.loads(body)
        error = found.get("error", found.get("detail", found.get("message")))
        if isinstance(error, dict):
            error = error.get("message")
        if isinstance(error, str):
            return error
    except (ValueError, AttributeError, RecursionError):
        pass
    return body[:200].decode("utf-8", "replace")
