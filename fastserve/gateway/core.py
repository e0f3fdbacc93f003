"""Core: what a gateway does with calls: through its stages, by its router, to an upstream and back."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Self

from starlette.requests import Request
from starlette.responses import Response

from fastserve.atomic_files import check_writable
from fastserve.gateway import capable, translate
from fastserve.gateway.asking import Asking
from fastserve.gateway.call import Call, Next, Part, Stage
from fastserve.gateway.choosing import Choosing
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.health import Health
from fastserve.gateway.jobs_of_calls import BYTES, UNIT_TOKENS, JobsOfCalls
from fastserve.gateway.sending import Sending
from fastserve.gateway.telemetry import Telemetry
from fastserve.gateway.upstream import Upstream
from fastserve.gateway.upstreams import Upstreams
from fastserve.gateway.views import Views
from fastserve.gateway.wire.passed import Passed
from fastserve.http_client import HttpClientError
from fastserve.server.api.errors import ApiError
from fastserve.server.http.auth import Auth
from fastserve.server.http.input_pool import InputPool
from fastserve.server.http.limits import RateLimits

log = logging.getLogger("fastserve.gateway")

BODIES_AT_ONCE = 8
OVERHEAD, PARSED = 16 << 10, 3
"""Bytes that a request takes beside its body, and how often that is in memory: as it came, and parsed."""

DRAINING = "the gateway is shutting down and accepts no new requests"


class Core:
    """Everything of a Gateway but its app. Event loop only. Raises ValueError."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.auth = Auth(config)
        self.limits = RateLimits(config)
        self.max_body_bytes = round(config.max_body_mib * (1 << 20))
        self.input_pool = InputPool(BODIES_AT_ONCE * self.max_body_bytes)
        self.upstreams = Upstreams()
        self.asking = Asking(config.connect_timeout)
        self.health = Health(config, self.upstreams, self.asking)
        self.views = Views(self.upstreams, self.asking, config.view_interval)
        if config.route_log is not None:
            check_writable(config.route_log)
        self.choosing = Choosing(config.router_spec(), UNIT_TOKENS, config.seed, config.route_log)
        self.health.on_lost.append(self._lost)
        self.upstreams.on_removed.append(self._lost)
        self.health.on_came.append(self._came)
        self.jobs = JobsOfCalls("prefixes" in self.choosing.router.needs)
        self.telemetry = Telemetry(self.upstreams)
        self.sending = Sending(
            config, self.upstreams, self.health, self.choosing, self.jobs, self._ended, self.telemetry.first_byte
        )
        self.stages: list[Stage] = []
        self.parts: list[Part] = []
        self.running: set[Call] = set()
        self.weights: dict[Call, int] = {}
        self.held = 0  # bytes, their sum
        self.draining = False
        self.ready = False
        self.started = time.time()
        for place in config.places():
            self.upstreams.add(
                place.url, name=place.name, weight=place.weight, key=place.key or config.upstream_key,
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
        for exchange in list(self.sending.watch.deadlines):
            exchange.abort(HttpClientError("the gateway was shut down before this request had ended"))
        await asyncio.sleep(0)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Before the first request: upstreams are looked at, parts are started."""
        await self.health.start()
        self.choosing.begin(list(self.upstreams))
        await self.views.start()
        for part in self.parts:
            await part.start()
        self.ready = True

    async def stop(self) -> None:
        """After the last one."""
        self.ready = False
        for part in reversed(self.parts):
            await part.stop()
        await self.views.stop()
        await self.health.stop()
        self.sending.watch.close()
        self.choosing.close()
        for upstream in self.upstreams:
            upstream.connections.close()
        self.input_pool.close()
        await self.auth.close()

    def _lost(self, upstream: Upstream) -> None:
        if self.choosing.begun:
            self.choosing.lost(upstream)

    def _came(self, upstream: Upstream) -> None:
        if self.choosing.begun:
            self.choosing.came(upstream)

    # -- requests ----------------------------------------------------------------------------------------------------

    @property
    def default_model(self) -> str:
        """Of requests that name none; empty where there is none at all."""
        return next(iter(self.upstreams.models()), "")

    async def answer(self, call: Call) -> Response:
        """Through the stages, then to an upstream. Raises ApiError."""
        if self.draining:
            raise ApiError(503, DRAINING, retry_after=self.config.drain_seconds)
        self.limits.admit(call.client, len(call.body) // BYTES)
        self._hold(call)
        self.running.add(call)
        response = None
        try:
            following: Next = self.forward
            for stage in reversed(self.stages):
                following = _after(stage, following)
            response = await following(call)
            return response
        finally:
            if not isinstance(response, Passed):
                self._release(call)

    async def forward(self, call: Call) -> Response:
        """The last of the stages: the router's choice, there and back."""
        if not call.model:
            call.rewrite(model=self.default_model)
        self.views.seen()
        having = self.upstreams.having(call.model)
        native = None
        if having and not any(capable.has(each, call.path) for each in having):
            if call.path not in translate.ROUTES:
                raise capable.lacking(self.upstreams, call.model, call.path)
            native = translate.translate(call)
        path = call.path
        response = await self.sending(call, lambda upstream: capable.has(upstream, path))
        return response if native is None else await translate.answered(call, native, response)

    def _hold(self, call: Call) -> None:
        """Makes sure of memory for a request on its way. Raises ApiError 503."""
        weight = OVERHEAD + PARSED * len(call.body)
        if self.held + weight > self.config.keep_mib * (1 << 20):
            what = f"requests on their way take {self.config.keep_mib:g} MiB already (keep_mib): try again later"
            raise ApiError(503, what, retry_after=1)
        self.held += weight
        self.weights[call] = weight

    def _release(self, call: Call) -> None:
        self.running.discard(call)
        self.held -= self.weights.pop(call, 0)

    def _ended(self, call: Call, upstream: Upstream, tokens: int, well: bool) -> None:
        self._release(call)
        self.limits.charge(call.client, tokens)

    async def __aenter__(self) -> Self:
        """Without a server: `async with Gateway(...) as gateway: await gateway.generate(...)`."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def gateway_of(request: Request) -> Core:
    """For handlers of routes."""
    core: Core = request.app.state.gateway
    return core


def _after(stage: Stage, following: Next) -> Next:
    async def through(call: Call) -> Response:
        return await stage(call, following)

    return through
