"""Core: what a gateway does with calls: through its stages, by its router, to an upstream and back."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from fastserve.gateway.call import Call, Next, Part, Stage, whole
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.proxy import Proxy
from fastserve.gateway.upstreams import Upstreams
from fastserve.server.api.errors import ApiError
from fastserve.server.http.auth import Auth
from fastserve.server.http.ids import new_id
from fastserve.server.http.input_pool import InputPool
from fastserve.server.http.limits import RateLimits

log = logging.getLogger("fastserve.gateway")

BODIES_AT_ONCE = 8
DRAINING = "the gateway is shutting down and accepts no new requests"


class Answer(NamedTuple):
    """text: of the first choice. raw: the whole answer."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any]
    raw: dict[str, Any]


class Core:
    """Everything of a Gateway but its app. Raises ValueError."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.auth = Auth(self.config)
        self.limits = RateLimits(self.config)
        self.max_body_bytes = round(self.config.max_body_mib * (1 << 20))
        self.input_pool = InputPool(BODIES_AT_ONCE * self.max_body_bytes)
        self.upstreams = Upstreams()
        self.proxy = Proxy(self.config.connect_timeout, self.config.silence_timeout)
        self.stages: list[Stage] = []
        self.parts: list[Part] = []
        self.running: set[Call] = set()
        self.draining = False
        self.started = time.time()
        for place in self.config.places():
            self.upstreams.add(
                place.url, name=place.name, weight=place.weight, key=place.key or self.config.upstream_key,
                models=place.models or None,
            )  # fmt: skip

    # -- what the HTTP server asks: server.http.served.Served --------------------------------------------------------

    @property
    def load(self) -> int:
        return len(self.running)

    @property
    def stored(self) -> int:
        return 0

    async def drain(self) -> None:
        self.draining = True
        deadline = time.monotonic() + self.config.drain_seconds
        while self.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Before the first request."""
        for upstream in self.upstreams:
            await self.look(upstream)
        for part in self.parts:
            await part.start()

    async def stop(self) -> None:
        """After the last one."""
        for part in reversed(self.parts):
            await part.stop()
        self.input_pool.close()
        await self.proxy.close()
        await self.auth.close()

    async def look(self, upstream: Any) -> None:
        """Models and health, once."""
        key = {"Authorization": f"Bearer {upstream.key.get_secret_value()}"} if upstream.key else {}
        try:
            answer = await self.proxy.http.get(f"{upstream.url}/v1/models", headers=key, timeout=5)
            cards = answer.json()["data"]
            if not upstream.given_models:
                upstream.models = tuple(card["id"] for card in cards)
            upstream.kind = cards[0].get("owned_by", "openai") if cards else "openai"
            upstream.state = "healthy"
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            upstream.state = "failing"
            log.warning("upstream %s: %s", upstream.name, type(error).__name__)

    # -- requests ----------------------------------------------------------------------------------------------------

    async def answer(self, call: Call) -> Response:
        """Through the stages, then to an upstream. Raises ApiError."""
        if self.draining:
            raise ApiError(503, DRAINING, retry_after=self.config.drain_seconds)
        self.running.add(call)
        try:
            following: Next = self.forward
            for stage in reversed(self.stages):
                following = _after(stage, following)
            return await following(call)
        finally:
            self.running.discard(call)

    async def forward(self, call: Call) -> Response:
        """The last of the stages: route and proxy."""
        upstreams = self.upstreams.serving(call.model)
        if not upstreams:
            known = ", ".join(sorted(self.upstreams.models())) or "none"
            raise ApiError(404, f"the model {call.model!r} is not served here; there is {known}", param="model")
        upstream = min(upstreams, key=lambda each: each.outstanding)
        upstream.counts.requests += 1
        return await self.proxy.send(call, upstream)

    async def generate(self, model: str, prompt: str | Sequence[dict[str, Any]], **params: Any) -> Answer:
        """The whole answer to a prompt, or to messages. params: fields of OpenAI's bodies. Raises ApiError."""
        response = await self.answer(self._own_call(model, prompt, params))
        raw = json.loads(await whole(response))
        if response.status_code != 200:
            raise ApiError(response.status_code, str(raw))
        choice = raw["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Answer(text or "", choice.get("finish_reason"), raw.get("usage") or {}, raw)

    async def stream(self, model: str, prompt: str | Sequence[dict[str, Any]], **params: Any) -> AsyncIterator[str]:
        """The text as it comes. Raises ApiError."""
        answer = await self.generate(model, prompt, **params)
        yield answer.text

    def _own_call(self, model: str, prompt: str | Sequence[dict[str, Any]], params: dict[str, Any]) -> Call:
        chat = not isinstance(prompt, str)
        fields = {"model": model, "messages" if chat else "prompt": prompt if not chat else list(prompt), **params}
        return Call(
            "/v1/chat/completions" if chat else "/v1/completions", json.dumps(fields).encode(), fields,
            Headers({"content-type": "application/json"}), model, params.get("user") or "default", False,
            bool(params.get("stream")), new_id(), time.monotonic_ns(),
        )  # fmt: skip


def gateway_of(request: Request) -> Core:
    """For handlers of routes."""
    core: Core = request.app.state.gateway
    return core


def _after(stage: Stage, following: Next) -> Next:
    async def through(call: Call) -> Response:
        return await stage(call, following)

    return through
