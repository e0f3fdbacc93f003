"""Native routes in front of servers that do not have them: asked as OpenAI's completions, answered as ours are.

Texts, tokens and ends are the upstream's; times are the gateway's own, and what only our engine knows (waiting,
preemptions) is 0. Nothing else is translated, and what goes to a server that has the route goes as it came.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from fastserve.gateway.call import MOST_WHOLE, Call, whole
from fastserve.gateway.sse import Events
from fastserve.gateway.wire.endings import error_message
from fastserve.gateway.wire.passed import Passed
from fastserve.server.api.errors import ApiError, Json, encoded, error_response

ROUTES: Final = ("/generate", "/generate/stream", "/chat", "/v1/generate", "/v1/generate_nobatch", "/stream")
RAW: Final = ("/v1/generate", "/stream")

DEFAULTS: Final[dict[str, Any]] = {"max_tokens": 100, "temperature": 0.7, "top_p": 0.9}
"""Of native requests, as our servers have them; the rest is the upstream's own."""

NAMES: Final = {
    "max_new_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "max_tokens": "max_tokens",
    "stop_sequences": "stop", "stop": "stop",
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "user",
                               "ignore_eos", "min_tokens", "stop_after", "guess")},
}  # fmt: skip
"""Field of a native request -> the field that it becomes; null is not given."""


class Native(NamedTuple):
    """What a call was before it was translated."""

    path: str
    fields: Mapping[str, Any]


def translate(call: Call) -> Native:
    """Makes it what its upstream gets. Raises ApiError 400 for what cannot be said there."""
    given = call.fields or {}
    if given.get("max_length") is not None:
        raise ApiError(400, "this model's server does not count prompts for max_length: give max_new_tokens")
    messages = given.get("messages") if call.path == "/chat" else None
    if messages is None and not isinstance(given.get("prompt", given.get("text")), str | list):
        raise ApiError(400, "prompt is missing" if call.path != "/chat" else "messages are missing")
    fields: dict[str, Any] = {"model": call.model}
    fields |= {"messages": messages} if messages is not None else {"prompt": given.get("prompt", given.get("text"))}
    fields |= DEFAULTS
    fields |= {NAMES[name]: value for name, value in given.items() if name in NAMES and value is not None}
    if given.get("do_sample") is False:
        fields["temperature"] = 0
    fields["stream"] = call.stream
    native = Native(call.path, given)
    call.path = "/v1/completions" if messages is None else "/v1/chat/completions"
    call.fields, call.body = fields, json.dumps(fields, separators=(",", ":")).encode()
    call.method, call.query = "POST", ""
    return native


async def answered(call: Call, native: Native, response: Response) -> Response:
    """The native answer, of the upstream's answer to the translated call."""
    made = _Made(call, native)
    if isinstance(response, Passed) and response.events is not None:
        response.body_iterator = made.stream(response)
        return response
    body = await whole(response)
    if response.status_code != 200:
        failed = error_response(native.path, ApiError(response.status_code, error_message(body)))
        if "retry-after" in response.headers:
            failed.headers["Retry-After"] = response.headers["retry-after"]
        return failed
    try:
        raw = json.loads(body)
        choice = raw["choices"][0]
        made.text = (choice["message"]["content"] if "message" in choice else choice["text"]) or ""
        made.end(choice.get("finish_reason"), raw.get("usage"))
    except (ValueError, KeyError, IndexError, TypeError):
        return error_response(native.path, ApiError(502, "the upstream's answer is no completion"))
    return Json(made.answer())


class _Made:
    """What is known of one answer, as it comes."""

    def __init__(self, call: Call, native: Native) -> None:
        self.call = call
        self.path = native.path
        self.metadata = native.fields.get("metadata")
        self.text = ""
        self.tokens = 0
        self.usage: dict[str, int] = {}
        self.reason = "stop"
        self.first: float | None = None

    @property
    def seconds(self) -> float:
        """Since its arrival."""
        return (time.monotonic_ns() - self.call.arrival) / 1e9

    def end(self, reason: Any, usage: Any) -> None:
        self.reason = str(reason or self.reason)
        if isinstance(usage, dict):
            self.usage = {name: value for name, value in usage.items() if isinstance(value, int)}

    def answer(self) -> dict[str, Any]:
        seconds = self.seconds
        tokens = self.usage.get("completion_tokens", self.tokens)
        prompt = self.usage.get("prompt_tokens", 0)
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        found: dict[str, Any] = {
            "job_id": self.call.request_id,
            "request_id": self.call.request_id,
            "text": self.text,
            "generated_text": self.text,
            "tokens_generated": tokens,
            "total_tokens": prompt + tokens,
            "usage": usage,
            "queue_time": 0.0,
            "execution_time": seconds,
            "completion_time": seconds,
            "generation_time": seconds,
            "time_to_first_token": self.first,
            "tokens_per_second": tokens / seconds if seconds else 0.0,
            "preemption_count": 0,
            "finish_reason": self.reason,
            "metadata": (self.metadata if isinstance(self.metadata, dict) else {})
            | {"model_name": self.call.model, "backend": "gateway"},
        }
        if self.path == "/chat":
            found["message"] = {"role": "assistant", "content": self.text}
        return found

    async def stream(self, response: Passed) -> AsyncIterator[bytes]:
        piece, last = (self._raw, self._raw_end) if self.path in RAW else (self._native, self._native_end)
        events, error = Events(), ""
        inner = response.own
        try:
            async for part in inner:
                made = b"".join([self._event(event, piece) for event in events.feed(part)])
                if made:
                    yield made
                if len(self.text) > MOST_WHOLE:
                    error = f"the upstream's answer is longer than {MOST_WHOLE:,} characters"
                    break
                if self.reason.startswith("error: "):
                    error = self.reason.removeprefix("error: ")
            yield last(error)
        finally:
            await inner.aclose()

    def _event(self, event: dict[str, Any], piece: Callable[[str], bytes]) -> bytes:
        if "error" in event:
            self.reason = f"error: {error_message(json.dumps(event).encode())}"
            return b""
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        self.end(choice.get("finish_reason"), event.get("usage"))
        delta = choice.get("delta")
        text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        if not isinstance(text, str) or not text:
            return b""
        self.text += text
        self.tokens += 1
        return piece(text)

    def _native(self, text: str) -> bytes:
        event: dict[str, Any] = {
            "text": text, "token": text, "request_id": self.call.request_id, "job_id": self.call.request_id,
            "tokens_generated": self.tokens,
        }  # fmt: skip
        if self.first is None:
            self.first = event["time_to_first_token"] = self.seconds
        return b"data: " + encoded({**event, "is_final": False}) + b"\n\n"

    def _native_end(self, error: str) -> bytes:
        found = self.answer() | {"text": "", "token": "", "is_final": True, "final": True}
        if error:
            found |= {"finish_reason": "error", "error": error}
        return b"data: " + encoded(found) + b"\n\n"

    def _raw(self, text: str) -> bytes:
        first = ""
        if self.first is None:
            self.first = self.seconds
            first = f"event: ttft\ndata: {self.first:.6f}\n\n"
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return (first + "".join([f"data: {line}\n" for line in lines]) + "\n").encode("utf-8", "replace")

    def _raw_end(self, error: str) -> bytes:
        failure = f"event: error\ndata: {' '.join(error.split())}\n\n" if error else ""
        return (failure + "event: done\ndata: \n\n").encode()
