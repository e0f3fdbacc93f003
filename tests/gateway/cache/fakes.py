"""Calls without HTTP, and an upstream that answers them as it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from fastserve.gateway.cache.memory import MemoryStore
from fastserve.gateway.cache.stage import CacheStage
from fastserve.gateway.cache.store import Store
from fastserve.gateway.call import Call, whole
from fastserve.gateway.telemetry import Telemetry
from fastserve.gateway.upstreams import Upstreams as RealUpstreams
from fastserve.server.http.ids import new_id

CHAT = "/v1/chat/completions"


@dataclass
class Upstream:
    kind: str = "fastserve"
    models: tuple[str, ...] = ("m",)


@dataclass
class Upstreams:
    each: list[Upstream] = field(default_factory=lambda: [Upstream()])

    def models(self) -> dict[str, list[Upstream]]:
        return {model: [one for one in self.each if model in one.models] for one in self.each for model in one.models}

    def having(self, model: str) -> list[Upstream]:
        return [one for one in self.each if not model or model in one.models]


class Gateway:
    def __init__(self) -> None:
        self.upstreams = Upstreams()
        self.telemetry = Telemetry(RealUpstreams())

    @property
    def default_model(self) -> str:
        return next(iter(self.upstreams.models()), "")


def stage(store: Store | None = None, scope: str = "client") -> CacheStage:
    return CacheStage(Gateway(), store or MemoryStore(1 << 24, 60), scope)  # type: ignore[arg-type]


def call(
    content: str = "hello", client: str = "a", path: str = CHAT, headers: dict[str, str] | None = None, **fields: Any
) -> Call:
    body: dict[str, Any] = {"model": "m", "temperature": 0}
    body |= {"messages": [{"role": "user", "content": content}]} if "chat" in path else {"prompt": content}
    body = {name: value for name, value in {**body, **fields}.items() if value is not None}
    return Call(path, json.dumps(body).encode(), body, Headers(headers or {}), str(body.get("model") or ""), client,
                True, bool(body.get("stream")), new_id(), time.monotonic_ns())  # fmt: skip


class Answers:
    """What stands behind the stage: counts the calls, and answers each with what it says of its client and content.

    pause: s between two parts of a stream. fail: number of the call -> how it goes wrong.
    """

    def __init__(self, pause: float = 0.0, fail: Callable[[int], str] = lambda number: "") -> None:
        self.calls: list[Call] = []
        self.pause = pause
        self.fail = fail
        self.closed = 0

    async def __call__(self, call: Call) -> Response:
        number = len(self.calls)
        self.calls.append(call)
        wrong = self.fail(number)
        if self.pause:
            await asyncio.sleep(self.pause)
        if wrong == "raises":
            raise ConnectionError("no upstream")
        if wrong == "status":
            return Response(b'{"error": {"message": "busy"}}', 503, media_type="application/json")
        text = text_of(call, number)
        if call.stream:
            return StreamingResponse(self._events(text, wrong), media_type="text/event-stream")
        reason = None if wrong else "stop"
        answer = {"id": f"chatcmpl-{new_id()}", "object": "chat.completion", "created": 1700000000, "model": "m",
                  "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                               "finish_reason": reason}]}  # fmt: skip
        return Response(json.dumps(answer), media_type="application/json")

    async def _events(self, text: str, wrong: str) -> AsyncIterator[bytes]:
        head = {"id": f"chatcmpl-{new_id()}", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}
        try:
            for at in range(0, len(text), 4):
                yield event({**head, "choices": [{"index": 0, "delta": {"content": text[at : at + 4]},
                                                  "finish_reason": None}]})  # fmt: skip
                if wrong == "cut":
                    return
                if wrong == "breaks":
                    raise ConnectionError("gone")
                if self.pause:
                    await asyncio.sleep(self.pause)
            if wrong == "error":
                yield event({"error": {"message": "gone"}}) + b"data: [DONE]\n\n"
                return
            yield event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + b"data: [DONE]\n\n"
        finally:
            self.closed += 1


def text_of(call: Call, number: int) -> str:
    """Names the client for whom it was made, what was asked, and which call it was."""
    return f"for {call.client}: {(call.fields or {}).get('messages') or (call.fields or {}).get('prompt')} #{number}"


def event(found: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(found).encode() + b"\n\n"


async def said(response: Response) -> tuple[str, str]:
    """(X-Cache, text)"""
    body = await whole(response)
    outcome = response.headers.get("x-cache", "")
    if not response.headers["content-type"].startswith("text/event-stream"):
        found = json.loads(body)
        return outcome, found["choices"][0]["message"]["content"] if "choices" in found else ""
    text = ""
    for part in body.split(b"\n\n"):
        if part.startswith(b"data: {"):
            for choice in json.loads(part[6:]).get("choices", ()):
                text += choice["delta"].get("content", "")
    return outcome, text
