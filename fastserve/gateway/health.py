"""Health: asks upstreams what they are and how they are, and lets the failing ones rest.

An upstream that fails a request rests at once (cooldown, doubled with each failure in a row) and is checked at once;
health_retries failed checks in a row make it `failing`, and one that succeeds `healthy` again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, cast

from fastserve.gateway.asking import AnswerError, Asking
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.upstream import TOLD, Kind, Upstream
from fastserve.gateway.upstreams import Upstreams
from fastserve.http_client import HttpClientError
from fastserve.server_kinds import Found, which

log = logging.getLogger("fastserve.gateway")

PATHS: dict[str, str] = {
    "fastserve": "/health/ready",
    "vllm": "/health",
    "llama-server": "/health",
    "ollama": "/api/version",
    "tgi": "/health",
}
"""Kind -> the route that says that a server takes requests; of others /v1/models."""

SOON_S = 0.2
"""Seconds between the checks of an upstream that has failed a request or a check, until it is known how it is."""

LONGEST_NAME, MOST_MODELS = 256, 4096
"""Of a model, in characters; of an upstream, in models."""


class Health:
    """on_lost, on_came: told when an upstream is found to be down, and when it serves (again)."""

    def __init__(self, config: GatewayConfig, upstreams: Upstreams, asking: Asking) -> None:
        self.config = config
        self.upstreams = upstreams
        self.asking = asking
        self.on_lost: list[Callable[[Upstream], None]] = []
        self.on_came: list[Callable[[Upstream], None]] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.sooner: dict[int, asyncio.Event] = {}
        self.random = random.Random(config.seed)
        upstreams.on_added.append(self.watch)
        upstreams.on_removed.append(self.forget)
        self.running = False

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Looks at all of them once, and goes on with that; waits for them as long as the settings say."""
        self.running = True
        firsts = [self.check(upstream) for upstream in self.upstreams]
        await asyncio.gather(*firsts)
        until = time.monotonic() + self.config.wait_for_upstreams
        while time.monotonic() < until and any(each.state != "healthy" for each in self.upstreams):
            await asyncio.sleep(SOON_S)
            await asyncio.gather(*[self.check(each) for each in self.upstreams if each.state != "healthy"])
        for upstream in self.upstreams:
            self.watch(upstream)

    async def stop(self) -> None:
        self.running = False
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        self.tasks.clear()

    def watch(self, upstream: Upstream) -> None:
        if self.running and upstream.replica not in self.tasks:
            self.sooner[upstream.replica] = asyncio.Event()
            self.tasks[upstream.replica] = asyncio.create_task(self._watch(upstream))
        elif self.running:
            self.sooner[upstream.replica].set()

    def forget(self, upstream: Upstream) -> None:
        self.sooner.pop(upstream.replica, None)
        task = self.tasks.pop(upstream.replica, None)
        if task is not None:
            task.cancel()
        upstream.connections.close()

    async def _watch(self, upstream: Upstream) -> None:
        sooner = self.sooner[upstream.replica]
        while True:
            try:
                async with asyncio.timeout(self._pause(upstream)):
                    await sooner.wait()
                    await asyncio.sleep(0)
            except TimeoutError:
                pass
            sooner.clear()
            await self.check(upstream)

    def _pause(self, upstream: Upstream) -> float:
        """Seconds until the next check."""
        interval = self.config.health_interval
        if upstream.state in ("healthy", "draining") and not upstream.failed_checks:
            return interval if self.config.health_check else 1e9
        if upstream.failed_checks < self.config.health_retries:
            return min(SOON_S, interval)
        return min(interval, self._rest(upstream.failed_checks - self.config.health_retries + 1))

    # -- checks ------------------------------------------------------------------------------------------------------

    async def check(self, upstream: Upstream) -> None:
        """Once: its kind where that is not known, how it is, and its models."""
        try:
            async with asyncio.timeout(self.config.health_timeout):
                await self._ask(upstream)
        except TimeoutError:
            self._ill(upstream, f"no answer within {self.config.health_timeout:g} s")
        except (HttpClientError, AnswerError) as error:
            self._ill(upstream, str(error))
        except Exception as error:  # whatever an upstream may say
            log.debug("check of upstream %s", upstream.name, exc_info=error)
            self._ill(upstream, f"its answer makes no sense: {type(error).__name__}")
        else:
            self._well(upstream)

    async def _ask(self, upstream: Upstream) -> None:
        if not upstream.kind:
            found = await self._kind(upstream)
            upstream.kind = cast(Kind, found.kind)
            upstream.load.slots = found.slots
        if upstream.kind in PATHS:
            await self.asking.json(upstream, PATHS[upstream.kind])
        if not upstream.models_given or upstream.kind not in PATHS:
            await self._models(upstream)

    async def _kind(self, upstream: Upstream) -> Found:
        asking = which()
        path = next(asking)
        while True:
            answer: Any = None
            try:
                answer = await self.asking.json(upstream, path)
            except AnswerError as error:
                if error.status in (502, 503) or path == "/v1/models":  # else it has no such route, and says so oddly
                    raise
            try:
                path = asking.send(answer)
            except StopIteration as end:
                found: Found = end.value
                if not found.kind:
                    raise AnswerError(
                        404, "it answers, but as no server that is known here (GET /v1/models): is the address right?"
                    ) from None
                return found

    async def _models(self, upstream: Upstream) -> None:
        listed = await self.asking.json(upstream, "/v1/models")
        cards = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(cards, list):
            raise AnswerError(200, "its /v1/models is no list of models")
        found = {}
        for card in cards[:MOST_MODELS]:
            name = card.get("id") if isinstance(card, dict) else None
            if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME:
                found[name] = {key: card[key] for key, kind in TOLD.items() if _is_short(card.get(key), kind)}
        upstream.cards = found
        if not upstream.models_given:
            upstream.models = tuple(found)

    def _well(self, upstream: Upstream) -> None:
        was_well = upstream.state == "healthy"
        if upstream.fault and not was_well and upstream.state != "draining":
            log.warning("upstream %s is there again", upstream.name)
        upstream.failed_checks = 0
        upstream.fault = ""
        if upstream.drains:
            upstream.state = "draining"
            return
        upstream.state = "healthy"
        if not was_well:
            upstream.rests_until = 0
            upstream.failures = 0
            for tell in self.on_came:
                tell(upstream)

    def _ill(self, upstream: Upstream, fault: str) -> None:
        if not upstream.failed_checks:
            upstream.ill_since = time.monotonic()
        upstream.failed_checks += 1
        upstream.fault = fault
        if upstream.drains or upstream.state == "failing":
            return
        if upstream.state == "starting" or upstream.failed_checks >= self.config.health_retries:
            was_well = upstream.state == "healthy"
            upstream.state = "failing"
            log.warning("upstream %s is failing: %s", upstream.name, fault)
            if was_well:
                upstream.connections.close()
                for tell in self.on_lost:
                    tell(upstream)

    # -- requests ----------------------------------------------------------------------------------------------------

    def failed(self, upstream: Upstream, seconds: float | None = None) -> None:
        """It did not serve a request. It rests, and is checked at once. seconds: as it asked for (Retry-After)."""
        upstream.failures += 1
        upstream.counts.cooldowns += 1
        rest = self._rest(upstream.failures)
        if seconds is not None:
            rest = min(max(rest, seconds), self.config.cooldown_most)
        upstream.rests_until = time.monotonic_ns() + round(rest * 1e9)
        if upstream.replica in self.sooner:
            self.sooner[upstream.replica].set()

    def served(self, upstream: Upstream) -> None:
        upstream.ill_since = time.monotonic()
        upstream.failures = 0
        upstream.rests_until = 0

    def _rest(self, failures: int) -> float:
        """Seconds, with up to a quarter more by lot, so that many gateways do not ask at once."""
        seconds = min(self.config.cooldown * 2.0 ** min(failures - 1, 30), self.config.cooldown_most)
        return seconds * (1 + self.random.random() / 4)


def _is_short(value: object, kind: type) -> bool:
    return type(value) is kind and len(str(value)) <= LONGEST_NAME
