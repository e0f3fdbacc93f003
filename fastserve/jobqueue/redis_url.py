"""Addresses of Redis: checked, shown without their password, and connected to with every wait bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastserve.importing import MissingPackageError

if TYPE_CHECKING:
    from redis.asyncio import Redis

SCHEMES = ("redis", "rediss")
CONNECT_S = 2.0
ANSWER_S = 5.0
"""Seconds in which Redis must have answered one command."""


def checked(url: str) -> str:
    """Raises ValueError for what is no address of Redis; the message does not repeat it, for it may hold a password."""
    wanted = "it must be redis://HOST:PORT/NUMBER, or rediss:// over TLS"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(wanted) from None
    number = parts.path.removeprefix("/")
    if parts.scheme not in SCHEMES or not parts.hostname or port == 0 or not (number == "" or number.isdecimal()):
        raise ValueError(wanted)
    return url


def shown(url: str) -> str:
    """Without user, password and options."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or 6379}{parts.path}"


def connected(url: str, answer_s: float = ANSWER_S, connections: int = 64) -> Redis:
    """A client; the first command connects. Each command ends within answer_s, or raises one of redis' errors.

    A further command waits as long for one of its connections. Values are bytes.
    """
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ModuleNotFoundError as error:
        raise missing(error) from error
    pool = BlockingConnectionPool.from_url(
        url, max_connections=connections, timeout=answer_s, socket_timeout=answer_s,
        socket_connect_timeout=min(CONNECT_S, answer_s), retry=Retry(NoBackoff(), 0),
    )  # fmt: skip
    return Redis.from_pool(pool)


def missing(error: ModuleNotFoundError) -> MissingPackageError:
    return MissingPackageError(f"{error.name} is not installed: pip install 'fastserve-testbed[queue]'")
