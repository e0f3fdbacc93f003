"""Connections: how many are open, in all and by address, and what is kept free for health checks and our own files."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Protocol

log = logging.getLogger("fastserve.server")

RESERVED = 32
"""Connections beyond the limits, for HEALTH alone. The oldest one makes room for a new one, so a check that sends its
request at once gets its answer even while somebody opens connections without end.
"""

RESERVED_SECONDS = 2.0
"""In which a request on one of those must have arrived."""

HEALTH = ("/ping", "/health", "/health/ready", "/health_check")

OWN_FILES = 256
"""File descriptors for the log, the job store, the model and what else this process opens."""

FEWEST_OWN = 64
"""The same where the limit of open files is low: some 20 are open when nothing happens."""

LOG_SECONDS = 10.0
"""Refusals of connections are logged at most so often, with their number."""


class Connection(Protocol):
    def drop(self) -> None:
        """Closes at once."""


class Connections:
    """Of one server. Event loop only."""

    def __init__(self, most: int, per_address: int) -> None:
        self.most = most
        self.per_address = per_address
        self.open: dict[Connection, str] = {}
        self.by_address: Counter[str] = Counter()
        self.reserved: dict[Connection, None] = {}  # oldest first
        self.refused: Counter[str] = Counter()  # since the last log line
        self.logged = float("-inf")

    def enter(self, connection: Connection, address: str) -> bool:
        """Whether it has an ordinary place; otherwise it may ask for HEALTH only."""
        if len(self.open) < self.most and self.by_address[address] < self.per_address:
            self.open[connection] = address
            self.by_address[address] += 1
            return True
        if len(self.reserved) >= RESERVED:
            oldest = next(iter(self.reserved))
            del self.reserved[oldest]
            oldest.drop()
        self.reserved[connection] = None
        return False

    def leave(self, connection: Connection) -> None:
        self.reserved.pop(connection, None)
        address = self.open.pop(connection, None)
        if address is not None:
            self.by_address[address] -= 1
            if not self.by_address[address]:
                del self.by_address[address]

    def tell(self, why: str) -> None:
        """Logs a refusal, together with those since the last line."""
        self.refused[why] += 1
        now = time.monotonic()
        if now - self.logged >= LOG_SECONDS:
            self.logged = now
            what = ", ".join([f"{count} x {reason}" for reason, count in self.refused.items()])
            log.warning("refused before a request was read: %s", what)
            self.refused.clear()


def fit_descriptors(most: int) -> int:
    """How many connections the limit of open files has room for, at most `most`; raises the soft limit if it may."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return most
    needed = most + RESERVED + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):
            pass
        if soft < needed:
            fits = max(1, soft - RESERVED - min(OWN_FILES, max(FEWEST_OWN, soft // 4)))
            log.warning(
                "the limit of %d open files has room for %d connections, not for %d: raise it (ulimit -n) or lower "
                "--max-connections", soft, fits, most
            )  # fmt: skip
            return fits
    return most
