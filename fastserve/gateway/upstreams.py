"""Upstreams: the servers behind the gateway, by name; they come and go while it runs. Event loop only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from pydantic import SecretStr

from fastserve.gateway.config import places
from fastserve.gateway.upstream import Upstream
from fastserve.routers import ReplicaView


class Upstreams:
    """on_added, on_removed: told of each."""

    def __init__(self) -> None:
        self.by_name: dict[str, Upstream] = {}
        self.next = 0
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
        """Raises ValueError for what is no URL, weight or name, and for a name that is taken.

        name: by default HOST:PORT. models: None to ask the server.
        """
        url = places.url_of(url)
        name = places.named(name or url.partition("://")[2].replace("/", "-"))
        if name in self.by_name:
            raise ValueError(f"there is an upstream called {name!r} already: give this one another name")
        upstream = Upstream(
            self.next,
            name,
            url,
            places.weight(weight),
            key,
            tuple(models or ()),
            owner=owner,
            given_models=bool(models),
        )
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
        """It gets no new requests, or gets some again. Raises KeyError."""
        upstream = self.by_name[name]
        if on:
            upstream.state = "draining"
        elif upstream.state == "draining":
            upstream.state = "starting"

    def serving(self, model: str) -> list[Upstream]:
        """Those with this model that may get a request now, by their numbers; "" is any model."""
        return [
            each for each in self.by_name.values() if each.state == "healthy" and (not model or model in each.models)
        ]

    def having(self, model: str) -> list[Upstream]:
        """Those with this model, in whatever state."""
        return [each for each in self.by_name.values() if not model or model in each.models]

    def models(self) -> dict[str, list[Upstream]]:
        """Model -> who has it."""
        found: dict[str, list[Upstream]] = {}
        for each in self.by_name.values():
            for model in each.models:
                found.setdefault(model, []).append(each)
        return found

    def views(self, model: str, tried: Collection[int] = ()) -> list[ReplicaView]:
        """What a router may choose from: who serves the model, but for the replicas that were tried."""
        return [
            ReplicaView(
                each.replica, each.name, each.weight, outstanding=each.outstanding,
                outstanding_tokens=each.outstanding_tokens, running=each.outstanding, source="counted",
            )
            for each in self.serving(model)
            if each.replica not in tried
        ]  # fmt: skip
