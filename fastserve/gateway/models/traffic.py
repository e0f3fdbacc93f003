"""UpstreamTraffic: a model's server as one of the gateway's upstreams, from when it serves to when it goes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from fastserve.gateway.core import Core
from fastserve.gateway.models.entry import Entry
from fastserve.gateway.models.server_process import ServerProcess
from fastserve.gateway.upstream import Upstream

OWNER: Final = "models"
LONGEST: Final = 100
"""Characters of an upstream's name that come of its model's."""


class UpstreamTraffic:
    """added: adapters of a model, by its name, that requests have loaded."""

    def __init__(self, gateway: Core, added: Callable[[str], dict[str, str]]) -> None:
        self.gateway, self.added = gateway, added
        self.upstreams: dict[str, Upstream] = {}

    def up(self, entry: Entry, process: ServerProcess) -> None:
        plain = re.sub(r"[^A-Za-z0-9._:@-]", "-", entry.name)[:LONGEST]
        name, count = plain, 1
        while name in self.gateway.upstreams.by_name:
            count += 1
            name = f"{plain}-{count}"
        models = (entry.name, *process.entry.adapters)
        upstream = self.gateway.upstreams.add(process.url, name=name, key=process.key, models=models, owner=OWNER)
        upstream.kind, upstream.state = "fastserve", "healthy"  # it has just said that it serves
        self.upstreams[entry.name] = upstream
        for tell in self.gateway.health.on_came:
            tell(upstream)

    def down(self, entry: Entry) -> None:
        upstream = self.upstreams.pop(entry.name, None)
        if upstream is not None and self.gateway.upstreams.by_name.get(upstream.name) is upstream:
            self.gateway.upstreams.remove(upstream.name)
            for tell in self.gateway.health.on_lost:
                tell(upstream)

    def running(self, entry: Entry) -> int:
        """What is on its way there, or what it has to do by its own word: jobs that were sent to /jobs, too."""
        upstream = self.upstreams.get(entry.name)
        return 0 if upstream is None else max(upstream.outstanding, _has(upstream))

    def ill_s(self, entry: Entry) -> float:
        upstream = self.upstreams.get(entry.name)
        if upstream is None or upstream.state != "failing":
            return 0.0
        return time.monotonic() - upstream.ill_since

    async def look(self) -> None:
        """Asks those that had something to do, which may have ended since, and those that were never asked: a new
        process may have durable jobs of the one before.
        """
        upstreams = [each for each in self.upstreams.values() if not each.outstanding]
        busy = [each for each in upstreams if _has(each) or each.load.source != "load"]
        await asyncio.gather(*map(self.gateway.views.look, busy))

    def whole(self, entry: Entry) -> Entry:
        more = self.added(entry.name)
        return replace(entry, adapters=entry.adapters | more) if more else entry

    def also(self, entry: Entry, adapter: str, there: bool) -> None:
        """An adapter came to a server that runs, or went."""
        upstream = self.upstreams.get(entry.name)
        if upstream is not None:
            rest = tuple(name for name in upstream.models if name != adapter)
            upstream.models = (*rest, adapter) if there else rest


def _has(upstream: Upstream) -> int:
    """Requests that wait and run there, when it was last asked."""
    return upstream.load.waiting + upstream.load.running if upstream.load.source == "load" else 0
