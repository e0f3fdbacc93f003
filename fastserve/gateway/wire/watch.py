"""Watch: ends exchanges whose upstream says nothing, does not finish its head, or takes longer than a request may."""

from __future__ import annotations

import asyncio

from fastserve.gateway.wire.exchange import HEAD_S, Exchange
from fastserve.http_client import HttpClientError

TICK_S = 0.25
"""Seconds between two looks: one timer for all exchanges, so that a part of an answer costs none."""


class SlowError(HttpClientError):
    """The upstream took too long."""


class Watch:
    """silence_s: for which an upstream may say nothing. Event loop only."""

    def __init__(self, silence_s: float) -> None:
        self.silence_s = silence_s
        self.deadlines: dict[Exchange, float] = {}
        self.timer: asyncio.TimerHandle | None = None

    def add(self, exchange: Exchange, deadline: float) -> None:
        """deadline: of the loop's time."""
        self.deadlines[exchange] = deadline
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for exchange, deadline in list(self.deadlines.items()):
            if exchange.over:
                del self.deadlines[exchange]
                continue
            link = exchange.link
            if link is not None and not link.paused:
                exchange.quiet += TICK_S
                if link.unread and not exchange.status:
                    exchange.head_s += TICK_S
            if exchange.head_s > HEAD_S:
                exchange.abort(SlowError(f"its headers did not come within {HEAD_S:g} s"))
            elif exchange.quiet > self.silence_s:
                exchange.abort(SlowError(f"it said nothing for {self.silence_s:g} s"))
            elif now > deadline:
                exchange.abort(SlowError("the request took longer than the gateway allows (--request-timeout)"))
        self.timer = loop.call_later(TICK_S, self._tick) if self.deadlines else None
