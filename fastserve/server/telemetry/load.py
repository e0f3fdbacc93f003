"""LoadNow: what GET /load tells a gateway that chooses among servers."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from fastserve.engine import Engine
from fastserve.engine.glance import Glance, glance
from fastserve.server.telemetry.totals import Totals

KEPT_S = 0.1
"""Seconds for which a look is good enough: however often somebody asks, the jobs are gone through so often."""

ANSWER = 128
"""Output tokens of an answer, before one has ended."""


class Load(TypedDict):
    """server_load: requests in flight, durable jobs not counted. Tokens: see engine.glance.Glance; null: unlimited."""

    server_load: int
    waiting: int
    running: int
    slots: int
    queued_tokens: int
    expected_tokens: int
    free_tokens: int | None
    pool_tokens: int | None
    cached_tokens: Annotated[int, Field(description="of the KV pool, remembered and in nobody's use")]
    draining: bool


class LoadNow:
    def __init__(self, engine: Engine, totals: Totals) -> None:
        self.engine = engine
        self.totals = totals
        self.at = float("-inf")
        self.last: Glance | None = None

    def look(self, in_flight: int, draining: bool) -> Load:
        now = time.monotonic()
        if self.last is None or now - self.at > KEPT_S:
            mean = self.totals.tokens / self.totals.count if self.totals.count else ANSWER
            self.last, self.at = glance(self.engine.loop.scheduler, mean), now
        return {"server_load": in_flight, **self.last._asdict(), "draining": draining}  # type: ignore[typeddict-item]
