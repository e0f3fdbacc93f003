"""Answers of OpenAI's API as Ollama's: one object, or a stream with an object a line (NDJSON)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fastserve.gateway.call import MOST_WHOLE
from fastserve.gateway.sse import Events
from fastserve.server.api.errors import encoded

BROKEN = "the upstream's stream ended before its answer was complete"
NO_ANSWER = "the upstream answered with what is no answer of OpenAI's API"

PIECE: Final = 64
"""Characters that a piece of a tool's call counts beside its own, since it takes memory too."""


class Answer:
    """Of one request. model: as the client calls it. Times: clock() is ns, and its zero is anywhere."""

    def __init__(
        self, model: str, chat: bool, began: int | None = None, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.model = model
        self.chat = chat
        self.clock = clock
        self.began = clock() if began is None else began
        self.first: int | None = None
        self.reason: str | None = None
        self.usage: Mapping[str, Any] = {}
        self.timings: Mapping[str, Any] = {}
        self.pieces = 0
        self.calls: dict[int, tuple[list[str], list[str]]] = {}  # pieces of the name, and of the arguments
        self.held = 0  # characters of them, with PIECE for each

    # -- one object ----------------------------------------------------------------------------------------------------

    def whole(self, given: Any) -> bytes:
        """A complete answer of OpenAI's API as one of Ollama's. Raises ValueError."""
        choice = _choice(given)
        if choice is None:
            raise ValueError(NO_ANSWER)
        self._take(given, choice)
        self.pieces = 1
        message = choice.get("message") or {}
        text = choice.get("text") if "text" in choice else message.get("content")
        self._collect(message.get("tool_calls"))
        return self._line(text or "", thoughts(message), choice.get("logprobs"), self._end())

    def loaded(self, reason: str) -> bytes:
        """Of a request without a prompt. reason: load or unload."""
        return self._line("", "", None, {"done": True, "done_reason": reason})

    # -- a stream ------------------------------------------------------------------------------------------------------

    def piece(self, event: Mapping[str, Any]) -> bytes:
        """An event as a line; empty where it has nothing to say."""
        if event.get("error"):
            return error_line(words_of(event))
        choice = _choice(event)
        if choice is None:
            self.usage = event.get("usage") or self.usage
            return b""
        self._take(event, choice)
        delta = choice.get("delta") or {}
        text, thought = (choice.get("text") or delta.get("content") or ""), thoughts(delta)
        self._collect(delta.get("tool_calls"))
        if not text and not thought and not choice.get("logprobs"):
            return b""
        if self.first is None:
            self.first = self.clock()
        self.pieces += 1
        return self._line(text, thought, choice.get("logprobs"), {"done": False})

    def last(self) -> bytes:
        """The line that ends a stream."""
        return self._line("", "", None, self._end()) if self.reason else error_line(BROKEN)

    # ------------------------------------------------------------------------------------------------------------------

    def _take(self, event: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        self.reason = choice.get("finish_reason") or self.reason
        self.usage = event.get("usage") or self.usage
        timings = event.get("timings")  # of llama.cpp's server, in ms
        self.timings = timings if isinstance(timings, dict) else self.timings

    def _line(self, text: str, thought: str, logprobs: Any, more: Mapping[str, Any]) -> bytes:
        said: dict[str, Any] = {"model": self.model, "created_at": stamp()}
        thinking = {"thinking": thought} if thought else {}
        if self.chat:
            calls = self._calls() if more["done"] else []
            said["message"] = {"role": "assistant", "content": text, **thinking} | (
                {"tool_calls": calls} if calls else {}
            )
        else:
            said |= {"response": text, **thinking}
        if isinstance(logprobs, dict) and logprobs.get("content"):
            said["logprobs"] = logprobs["content"]
        return encoded({**said, **more}) + b"\n"

    def _end(self) -> dict[str, Any]:
        now = self.clock()
        total = now - self.began
        prompt_ns, output_ns = _ns(self.timings, "prompt_ms"), _ns(self.timings, "predicted_ms")
        if prompt_ns is None or output_ns is None:
            prompt_ns = 0 if self.first is None else self.first - self.began
            output_ns = total - prompt_ns
        return {
            "done": True,
            "done_reason": "length" if self.reason == "length" else "stop",
            "total_duration": total,
            "load_duration": 0,
            "prompt_eval_count": self.usage.get("prompt_tokens", 0),
            "prompt_eval_duration": prompt_ns,
            "eval_count": self.usage.get("completion_tokens", self.pieces),
            "eval_duration": output_ns,
        }

    def _collect(self, calls: Any) -> None:
        """Calls of tools come whole, or their arguments in pieces. Raises ValueError where they are too long."""
        for at, call in enumerate(calls if isinstance(calls, list) else ()):
            if not isinstance(call, dict):
                continue
            index, function = call.get("index"), call.get("function")
            name, arguments = self.calls.setdefault(index if isinstance(index, int) else at, ([], []))
            if isinstance(function, dict):
                more = str(function.get("name") or ""), str(function.get("arguments") or "")
                name.append(more[0])
                arguments.append(more[1])
                self.held += len(more[0]) + len(more[1])
            self.held += PIECE
            if self.held > MOST_WHOLE:
                self.calls = {}
                raise ValueError(f"the upstream's calls of tools are longer than {MOST_WHOLE:,} characters")

    def _calls(self) -> list[dict[str, Any]]:
        found = []
        for name, pieces in self.calls.values():
            text = "".join(pieces)
            try:
                arguments = json.loads(text or "{}")
            except (ValueError, RecursionError):
                arguments = {"arguments": text}
            found.append({"function": {"name": "".join(name), "arguments": arguments}})
        return found


class Lines:
    """A stream of OpenAI's events, byte for byte as it passes, into lines of Ollama's."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.events = Events()
        self.failed = False

    def feed(self, data: bytes) -> bytes:
        return b"".join(map(self._line, self.events.feed(data)))

    def end(self) -> bytes:
        lines = b"".join(map(self._line, self.events.end()))
        return lines if self.failed else lines + self.answer.last()

    def _line(self, event: Mapping[str, Any]) -> bytes:
        if self.failed:
            return b""
        self.failed = bool(event.get("error"))
        return self.answer.piece(event)


def _choice(given: Any) -> Mapping[str, Any] | None:
    choices = given.get("choices") if isinstance(given, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _ns(timings: Mapping[str, Any], name: str) -> int | None:
    value = timings.get(name)
    return int(value * 1e6) if isinstance(value, int | float) else None


def thoughts(message: Mapping[str, Any]) -> str:
    return str(message.get("reasoning_content") or message.get("reasoning") or "")


def stamp(at: float | None = None) -> str:
    """A time as Ollama writes it. at: s since the epoch, now where it is not given."""
    when = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def error_line(message: str) -> bytes:
    return encoded({"error": message}) + b"\n"


def words_of(given: Any, otherwise: str = "the upstream failed") -> str:
    """What an error says: of OpenAI's format, FastAPI's or Ollama's."""
    if not isinstance(given, dict):
        return otherwise
    error, detail = given.get("error"), given.get("detail")
    if isinstance(error, dict):
        error = error.get("message")
    if isinstance(detail, list):
        detail = "; ".join(str(fault.get("msg")) for fault in detail if isinstance(fault, dict))
    return str(error or detail or otherwise)
