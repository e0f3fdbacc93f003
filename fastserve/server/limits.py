"""Rate limits of a client: requests a second, requests a minute and tokens a minute."""

from __future__ import annotations

import time

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from fastserve.server.api.errors import ApiError
from fastserve.server.config.settings import FastServeConfig


class RateLimits:
    """Requests are counted in moving windows, tokens in fixed ones: prompt tokens at admission, output tokens at the
    end. So a client may exceed its tokens a minute, and is then refused until the window is over.
    """

    def __init__(self, config: FastServeConfig) -> None:
        storage = MemoryStorage()
        self.moving = MovingWindowRateLimiter(storage)
        self.fixed = FixedWindowRateLimiter(storage)
        self.requests: list[tuple[RateLimitItem, str]] = []
        if config.burst_allowance is not None:
            self.requests.append((RateLimitItemPerSecond(config.burst_allowance), "requests a second"))
        if config.requests_per_minute is not None:
            self.requests.append((RateLimitItemPerMinute(config.requests_per_minute), "requests a minute"))
        self.tokens = None if config.tokens_per_minute is None else RateLimitItemPerMinute(config.tokens_per_minute)

    def test(self, client: str) -> None:
        """Raises ApiError 429 for a client that has used up a limit; counts nothing."""
        if self.tokens is not None and not self.fixed.test(self.tokens, "tokens", client):
            self._refuse(self.fixed, self.tokens, "tokens", client, "tokens a minute")
        for item, what in self.requests:
            if not self.moving.test(item, "requests", client):
                self._refuse(self.moving, item, "requests", client, what)

    def admit(self, client: str, prompt_tokens: int) -> None:
        """Counts one request with all its prompts. Raises ApiError 429, and then counts nothing."""
        self.test(client)
        for item, _ in self.requests:
            self.moving.hit(item, "requests", client)
        self.charge(client, prompt_tokens)

    def charge(self, client: str, tokens: int) -> None:
        """Counts tokens against the limit, also beyond it."""
        if self.tokens is not None and tokens:
            self.fixed.hit(self.tokens, "tokens", client, cost=tokens)

    def _refuse(
        self,
        limiter: FixedWindowRateLimiter | MovingWindowRateLimiter,
        item: RateLimitItem,
        kind: str,
        client: str,
        what: str,
    ) -> None:
        reset = limiter.get_window_stats(item, kind, client).reset_time
        raise ApiError(429, f"client {client} has used its {item.amount} {what}", retry_after=reset - time.time())
