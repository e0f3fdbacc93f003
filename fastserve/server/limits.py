"""How much a client may ask for: requests and tokens a minute, and requests at once."""

from __future__ import annotations

import time

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from fastserve.server.api.errors import ApiError
from fastserve.server.config.settings import FastServeConfig


class RateLimits:
    """Requests are counted in moving windows. Tokens are booked: the prompt at acceptance, the output at the end, so a
    client may overdraw its minute, and is refused until that minute is over.
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

    def admit(self, client: str, prompt_tokens: int) -> None:
        """One request, with all its prompts. Raises ApiError 429, and then books nothing."""
        if self.tokens is not None and not self.fixed.test(self.tokens, "tokens", client):
            self._refuse(self.fixed, self.tokens, "tokens", client, "tokens a minute")
        for item, what in self.requests:
            if not self.moving.test(item, "requests", client):
                self._refuse(self.moving, item, "requests", client, what)
        for item, _ in self.requests:
            self.moving.hit(item, "requests", client)
        self.book(client, prompt_tokens)

    def book(self, client: str, tokens: int) -> None:
        """These tokens were used, whether or not they were left."""
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
