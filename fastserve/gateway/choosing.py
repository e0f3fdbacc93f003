"""Choosing: the router at work. What it raises is logged once, and the request goes where least-connections says."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastserve.flightlog.routes import RouteLog
from fastserve.gateway.upstream import Upstream
from fastserve.routers import Replica, ReplicaView, RouterError, RouterFacts, chosen
from fastserve.routers.least_connections import LeastConnections
from fastserve.routers.spec import RouterSpec
from fastserve.sched.job import Job

log = logging.getLogger("fastserve.gateway")


RECENT = 64
"""Choices that are remembered for the page."""

WATCHED_S = 10.0
"""Seconds after a look at them for which routers are asked why."""


@dataclass(slots=True)
class Choice:
    """at: s since the epoch. again: others were tried before. why: the router's words, while somebody looks.

    failed: there was no answer. broken: there was the beginning of one.
    """

    at: float
    model: str
    client: str
    upstream: str
    why: str
    again: bool
    failed: bool = False
    broken: bool = False


class Choosing:
    """Times of the router's calls are ns since this object was made; they never fall."""

    def __init__(self, spec: RouterSpec, unit_tokens: int, seed: int, path: Path | None = None) -> None:
        self.spec = spec
        self.own = self.router = spec.fresh()
        self.instead = LeastConnections()
        self.path = path  # of a log of what the router is told and chooses
        self.log: RouteLog | None = None
        self.unit_tokens = unit_tokens
        self.seed = seed
        self.origin = time.monotonic_ns()
        self.begun = False
        self.faults: set[str] = set()
        self.recent: deque[Choice] = deque(maxlen=RECENT)
        self.watched_until = 0.0

    def noted(self, job: Job, model: str, client: str, upstream: Upstream, again: bool) -> Choice:
        """Remembers where a job went; its sender says if it failed there."""
        why = self.why(job) if time.monotonic() < self.watched_until else ""
        choice = Choice(time.time(), model, client, upstream.name, why, again)
        self.recent.append(choice)
        return choice

    def shown(self, client: str | None) -> list[dict[str, Any]]:
        """The last choices, the newest first. client: who looks, and sees whose requests are its own; None: of nobody
        in particular.
        """
        self.watched_until = time.monotonic() + WATCHED_S
        return [
            asdict(each) | {"client": each.client if client in (None, each.client) else ""}
            for each in reversed(self.recent)
        ]

    def now(self) -> int:
        return time.monotonic_ns() - self.origin

    def begin(self, upstreams: Sequence[Upstream]) -> None:
        """Once; those that come later are told by came(). Raises OSError where the log cannot be written."""
        self.begun = True
        whole = [each.replica for each in upstreams] == list(range(len(upstreams)))  # none has gone before the start
        replicas = tuple(Replica(each.name, each.weight) for each in upstreams) if whole else ()
        facts = RouterFacts(replicas, self.unit_tokens, self.seed)
        self.instead.begin(facts)
        if self.path is not None:
            self.log = RouteLog(self.path, self.spec, facts)
            self.router = self.log.around(self.router)
        self._tell("begin", self.router.begin, facts)
        for upstream in () if whole else upstreams:
            self.came(upstream)

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        """An index into views."""
        try:
            index = chosen(self.router, job, tuple(views))
        except RouterError as error:
            self._fault(error.method, error)
            index = self.instead.route(job, views)
        return index

    def why(self, job: Job) -> str:
        try:
            return str(self.router.explain(job))[:200]
        except Exception as error:
            self._fault("explain", error)
            return ""

    def sent(self, job: Job, replica: int) -> None:
        now = self.now()
        self._tell("sent", self.router.sent, job, replica, now)

    def ended(self, job: Job, replica: int, tokens: int) -> None:
        now = self.now()
        self._tell("ended", self.router.ended, job, replica, now, tokens)

    def failed(self, job: Job, replica: int) -> None:
        now = self.now()
        self._tell("failed", self.router.failed, job, replica, now)

    def lost(self, upstream: Upstream) -> None:
        now = self.now()
        self._tell("lost", self.router.lost, upstream.replica, now)

    def came(self, upstream: Upstream) -> None:
        now = self.now()
        self._tell("came", self.router.came, upstream.replica, upstream.name, upstream.weight, now)

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def _tell(self, method: str, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self._fault(method, RouterError(self.own, method, None, error))

    def _fault(self, method: str, error: Exception) -> None:
        """Each method once: a router that is broken breaks at each request."""
        if method not in self.faults:
            self.faults.add(method)
            log.error("%s; requests go where least-connections says (told once)", error, exc_info=error.__cause__)
