"""Rate limits of a client: requests a second, requests a minute and tokens a minute.

Ours and not a library's because of the clock: those that there are count by the wall clock, and one that is set back by
a day would have every client wait for a day.
"""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from fastserve.server.api.errors import ApiError
from fastserve.server.config.http_settings import HttpSettings

MINUTE, SECOND = 60.0, 1.0


class RateLimits:
    """Requests are counted in moving windows, tokens in fixed ones: prompt tokens at admission, output tokens at the
    end. So a client may exceed its tokens a minute, and is then refused until the window is over.
    """

    def __init__(self, config: HttpSettings) -> None:
        self.requests: list[MovingWindow] = []
        if config.burst_allowance is not None:
            self.requests.append(MovingWindow(config.burst_allowance, SECOND, "requests a second"))
        if config.requests_per_minute is not None:
            self.requests.append(MovingWindow(config.requests_per_minute, MINUTE, "requests a minute"))
        self.tokens = None if config.tokens_per_minute is None else FixedWindow(config.tokens_per_minute, MINUTE)

    def test(self, client: str) -> None:
        """Raises ApiError 429 for a client that has used up a limit; counts nothing."""
        now = time.monotonic()
        if self.tokens is not None:
            _refuse(client, self.tokens.wait(client, now), self.tokens.most, "tokens a minute")
        for window in self.requests:
            _refuse(client, window.wait(client, now), window.most, window.what)

    def admit(self, client: str, prompt_tokens: int) -> None:
        """Counts one request with all its prompts. Raises ApiError 429, and then counts nothing."""
        self.test(client)
        now = time.monotonic()
        for window in self.requests:
            window.count(client, now)
        self.charge(client, prompt_tokens)

    def charge(self, client: str, tokens: int) -> None:
        """Counts tokens against the limit, also beyond it."""
        if self.tokens is not None and tokens:
            self.tokens.count(client, time.monotonic(), tokens)


class MovingWindow:
    """At most `most` requests of a client in any `seconds`. Times are of time.monotonic()."""

    def __init__(self, most: int, seconds: float, what: str) -> None:
        self.most = most
        self.seconds = seconds
        self.what = what
        self.times: dict[str, deque[float]] = {}  # by client, who has asked longest ago first
        self._swept = time.monotonic()

    def wait(self, client: str, now: float) -> float:
        """Seconds until there is room for one more request; 0: there is."""
        times = self.times.get(client)
        if times is None:
            return 0.0
        while times and times[0] <= now - self.seconds:
            times.popleft()
        return 0.0 if len(times) < self.most else times[0] + self.seconds - now

    def count(self, client: str, now: float) -> None:
        if now - self._swept > self.seconds:  # clients that have not asked for a window
            self._swept = now
            self.times = {name: times for name, times in self.times.items() if times and times[-1] > now - self.seconds}
        self.times.setdefault(client, deque()).append(now)


class Spent(NamedTuple):
    """until: end of the window, time.monotonic()."""

    tokens: int
    until: float


class FixedWindow:
    """At most `most` tokens of a client in `seconds` from its first one on; it may overdraw them once."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most = most
        self.seconds = seconds
        self.spent: dict[str, Spent] = {}
        self._swept = time.monotonic()

    def wait(self, client: str, now: float) -> float:
        """Seconds until it may spend again; 0: now."""
        spent = self.spent.get(client)
        return 0.0 if spent is None or spent.tokens < self.most else max(0.0, spent.until - now)

    def count(self, client: str, now: float, tokens: int) -> None:
        if now - self._swept > self.seconds:
            self._swept = now
            self.spent = {name: spent for name, spent in self.spent.items() if spent.until > now}
        spent = self.spent.get(client)
        if spent is None or spent.until <= now:
            spent = Spent(0, now + self.seconds)
        self.spent[client] = spent._replace(tokens=spent.tokens + tokens)


def _refuse(client: str, seconds: float, most: int, what: str) -> None:
    """Raises ApiError 429 where there is anything to wait for."""
    if seconds > 0:
        raise ApiError(429, f"client {client} has used its {most} {what}", retry_after=seconds)
