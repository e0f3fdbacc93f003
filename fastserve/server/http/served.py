"""Served: what stands behind the routes of one of our HTTP servers, as its middleware and its process see it."""

from __future__ import annotations

from typing import Protocol

from fastserve.server.config.http_settings import HttpSettings
from fastserve.server.http.auth import Auth


class Served(Protocol):
    """A model server's Service, or a Gateway. Event loop only."""

    auth: Auth
    max_body_bytes: int

    @property
    def config(self) -> HttpSettings: ...

    @property
    def load(self) -> int:
        """Requests in flight, for which a drain waits."""

    @property
    def stored(self) -> int:
        """Durable jobs that have not ended and stay for the next start."""

    async def drain(self) -> None:
        """Refuses new requests; returns when those in flight have ended, or were ended after drain_seconds."""
