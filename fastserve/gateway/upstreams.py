"""Upstreams: the servers behind the gateway, by name; they come and go while it runs. Event loop only."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from pydantic import SecretStr

from fastserve.gateway.config import places
from fastserve.gateway.upstream import Upstream
from fastserve.routers import ReplicaView

MOST = 1024
"""Upstreams at a time."""


class Upstreams:
    """on_added, on_removed: told of each. offered: models that a part brings up when they are asked for."""

    def __init__(self) -> None:
        self.by_name: dict[str, Upstream] = {}
        self.next = 0
        self.offered: tuple[str, ...] = ()
        self.on_added: list[Callable[[Upstream], None]] = []
        self.on_removed: list[Callable[[Upstream], None]] = []

    def __iter__(self) -> Iterator[Upstream]:
        return iter(list(self.by_name.values()))

    def __len__(self) -> int:
        return len(self.by_name)

    def add(
        self,
        url: str,
        *,
        name: str = "",
        weight: float = 1.0,
        key: SecretStr | None = None,
        models: tuple[str, ...] | None = None,
        owner: str = "",
    ) -> Upstream:
        """It is looked at at once, and gets requests when it is well. name: by default HOST:PORT. models: None to ask
        the server. Raises ValueError for what is no URL, weight or name, and for a name that is taken.
        """
        url = places.url_of(url)
        name = places.named(name or places.name_of(url))
        if name in self.by_name:
            raise ValueError(f"there is an upstream called {name!r} already: give this one another name")
        if len(self.by_name) >= MOST:
            raise ValueError(f"there are {MOST} upstreams already: remove some")
        given = tuple(models or ())
        upstream = Upstream(self.next, name, url, places.weight(weight), key, given, owner=owner)
        upstream.models_given = bool(given)
        self.next += 1
        self.by_name[name] = upstream
        for tell in self.on_added:
            tell(upstream)
        return upstream

    def find(self, name: str) -> Upstream:
        """Raises KeyError."""
        return self.by_name[name]

    def remove(self, name: str) -> None:
        """What is on its way there goes on. Raises KeyError."""
        upstream = self.by_name.pop(name)
        for tell in self.on_removed:
            tell(upstream)

    def drain(self, name: str, on: bool = True) -> None:
        """It gets no new requests, or gets some again once it was found well. Raises KeyError."""
        upstream = self.by_name[name]
        upstream.drains = on
        if on:
            upstream.state = "draining"
        elif upstream.state == "draining":
            upstream.state = "starting"
            for tell in self.on_added:
                tell(upstream)

    def serving(self, model: str) -> list[Upstream]:
        """Those with this model that may get a request now, by their numbers; "" is any model. Those that rest are
        among them only where all do.
        """
        well = [each for each in self.by_name.values() if each.state == "healthy" and _has(each, model)]
        now = time.monotonic_ns()
        return [each for each in well if each.rests_until <= now] or well

    def having(self, model: str) -> list[Upstream]:
        """Those with this model, in whatever state."""
        return [each for each in self.by_name.values() if _has(each, model)]

    def models(self) -> dict[str, list[Upstream]]:
        """Model -> who has it now; of one that is offered perhaps nobody."""
        found: dict[str, list[Upstream]] = {name: [] for name in self.offered}
        for each in self.by_name.values():
            for model in each.models:
                found.setdefault(model, []).append(each)
        return found

    def views(self, model: str, tried: Collection[int] = ()) -> list[ReplicaView]:
        """What a router may choose from: who serves the model, but for the replicas that were tried."""
        now = time.monotonic_ns()
        return [each.view(now) for each in self.serving(model) if each.replica not in tried]


def _has(upstream: Upstream, model: str) -> bool:
    return not model or model in upstream.models
