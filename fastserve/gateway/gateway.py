"""Gateway: the object. `Gateway(upstream=["http://127.0.0.1:8001"]).run()`."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from starlette.datastructures import Headers
from starlette.responses import Response

from fastserve.gateway.app import create_app
from fastserve.gateway.call import Call, leave, whole
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.core import Core
from fastserve.gateway.run import run
from fastserve.gateway.sse import Events
from fastserve.gateway.wire.endings import error_message
from fastserve.server.api.errors import ApiError
from fastserve.server.http.ids import new_id

__all__ = ["Answer", "Gateway"]

Asked: TypeAlias = "str | Sequence[Mapping[str, Any]]"
"""A prompt, or messages."""


class Answer(NamedTuple):
    """text: of the first choice. usage: tokens, as OpenAI names them. raw: the whole answer."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any]
    raw: dict[str, Any]


class Gateway(Core):
    """config, or settings as keywords (GatewayConfig's fields). app: FastAPI's, for endpoints of one's own before
    run(); its parts and stages are made with it. Raises ValueError.
    """

    def __init__(self, config: GatewayConfig | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise ValueError("give a GatewayConfig or settings, not both")
        super().__init__(config or GatewayConfig(**settings))
        self.app = create_app(self)

    async def generate(self, model: str, prompt_or_messages: Asked, **params: Any) -> Answer:
        """The whole answer. params: fields of OpenAI's bodies (max_tokens, temperature, user), each request its own.

        The way is that of a request over HTTP: through all stages, by the router, with its retries. Raises ApiError.
        """
        response = await self.answer(call_of(model, prompt_or_messages, {**params, "stream": False}))
        raw = parsed(response, await whole(response))
        try:
            choice = raw["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            return Answer(text or "", choice.get("finish_reason"), raw.get("usage") or {}, raw)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ApiError(502, "the upstream's answer has no choices") from None

    async def stream(self, model: str, prompt_or_messages: Asked, **params: Any) -> AsyncIterator[str]:
        """The text of the first choice as it comes; to leave the loop cancels the request. Raises ApiError."""
        response = await self.answer(call_of(model, prompt_or_messages, {**params, "stream": True}))
        iterator = getattr(response, "body_iterator", None)
        if iterator is None or response.status_code != 200:
            parsed(response, await whole(response))
            raise ApiError(502, "the upstream's answer is no stream")
        events = Events()
        try:
            async for part in iterator:
                for event in events.feed(part.encode() if isinstance(part, str) else part):
                    if text := text_of(event):
                        yield text
        finally:
            await leave(response)

    def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C, then drains. Raises StartError."""
        run(self, self.app)


def call_of(model: str, asked: Asked, params: dict[str, Any]) -> Call:
    """A request of this program, not of a client."""
    fields: dict[str, Any] = {"model": model}
    fields |= {"prompt": asked} if isinstance(asked, str) else {"messages": [dict(each) for each in asked]}
    fields |= params
    path = "/v1/completions" if isinstance(asked, str) else "/v1/chat/completions"
    return Call(
        path, json.dumps(fields, separators=(",", ":")).encode(), fields, Headers({"content-type": "application/json"}),
        model, str(params.get("user") or "default"), False, bool(params.get("stream")), new_id(), time.monotonic_ns(),
    )  # fmt: skip


def parsed(response: Response, body: bytes) -> dict[str, Any]:
    """The object that an answer is. Raises ApiError for an error, and for what is none."""
    if response.status_code != 200:
        raise ApiError(response.status_code, error_message(body))
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ApiError(502, "the upstream's answer is no JSON object")
    return found


def text_of(event: dict[str, Any]) -> str:
    """Of one chunk. Raises ApiError for an error event."""
    error = event.get("error")
    if error is not None:
        status = error.get("code") if isinstance(error, dict) else None
        raise ApiError(status if isinstance(status, int) else 502, error_message(json.dumps(event).encode()))
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if choice.get("index"):
        return ""
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return text if isinstance(text, str) else ""
