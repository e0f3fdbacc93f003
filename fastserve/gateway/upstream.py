"""Upstream: one server behind the gateway, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import SecretStr

from fastserve.gateway.wire.exchange import UpstreamLink
from fastserve.http_client import Connections
from fastserve.routers import ReplicaView
from fastserve.routers.view import Source

Kind: TypeAlias = Literal["", "fastserve", "vllm", "llama-server", "ollama", "openai", "tgi"]
"""Empty while it is not known."""

State: TypeAlias = Literal["starting", "healthy", "failing", "draining"]

TOLD: dict[str, type] = {"root": str, "parent": str, "max_model_len": int}
"""What is kept of a model as an upstream's /v1/models describes it, and of which type it has to be."""


@dataclass(slots=True)
class Counts:
    """Since it was added. errors: requests that it did not serve to the end; retries: those sent elsewhere after it."""

    requests: int = 0
    errors: int = 0
    retries: int = 0
    cooldowns: int = 0
    tokens: int = 0
    bytes: int = 0
    first_byte_s: float = 0.0  # sum, over answers


@dataclass(slots=True)
class Load:
    """What the upstream says of itself, or the gateway's counts (source). at: ns, when it was true; 0: never yet."""

    source: Source = "counted"
    at: int = 0
    waiting: int = 0
    running: int = 0
    slots: int | None = None
    queued_tokens: int = 0
    expected_tokens: int | None = None  # None: it does not say
    free_tokens: int | None = None
    pool_tokens: int | None = None
    cached_tokens: int = 0


@dataclass(slots=True, eq=False)
class Upstream:
    """replica: its number, never used again. models: as its /v1/models tells, or as given. owner: the part that added
    it and alone removes it; empty for settings and people. key: its bearer token, shown nowhere.

    rests_until: ns of time.monotonic_ns(); before, others get the requests if there are any. failures: in a row.
    """

    replica: int
    name: str
    url: str
    weight: float = 1.0
    key: SecretStr | None = None
    models: tuple[str, ...] = ()
    kind: Kind = ""
    state: State = "starting"
    owner: str = ""
    models_given: bool = False
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)  # by model, what its /v1/models says: see TOLD
    connections: Connections[UpstreamLink] = field(init=False)
    counts: Counts = field(default_factory=Counts)
    load: Load = field(default_factory=Load)
    outstanding: int = 0
    outstanding_tokens: int = 0
    rests_until: int = 0
    failures: int = 0
    failed_checks: int = 0
    ill_since: float = 0.0  # s of time.monotonic(): the first of them in a row; no request was served since
    fault: str = ""  # why it was last found ill; empty while it is well
    drains: bool = False  # somebody has said so

    def __post_init__(self) -> None:
        self.connections = Connections(self.url, UpstreamLink)

    def view(self, now: int) -> ReplicaView:
        """For routers. now: ns of time.monotonic_ns()."""
        load, counted = self.load, self.load.source == "counted"
        expected = load.expected_tokens
        return ReplicaView(
            self.replica,
            self.name,
            self.weight,
            outstanding=self.outstanding,
            outstanding_tokens=self.outstanding_tokens,
            waiting=load.waiting,
            running=self.outstanding if counted else load.running,
            slots=load.slots,
            queued_tokens=load.queued_tokens,
            expected_tokens=self.outstanding_tokens if expected is None else expected,
            free_tokens=load.free_tokens,
            pool_tokens=load.pool_tokens,
            cached_tokens=load.cached_tokens,
            age=0 if counted else now - load.at,
            source=load.source,
        )

    def shown(self, now: int) -> dict[str, Any]:
        """For people and programs; without the key. now: as for view()."""
        load, counts = self.load, self.counts
        return {
            "replica": self.replica,
            "name": self.name,
            "url": self.url,
            "weight": self.weight,
            "has_key": self.key is not None,
            "models": list(self.models),
            "kind": self.kind,
            "state": self.state,
            "fault": self.fault,
            "owner": self.owner,
            "cooldown_seconds": max(0.0, round((self.rests_until - now) / 1e9, 3)),
            "outstanding": self.outstanding,
            "outstanding_tokens": self.outstanding_tokens,
            "load": {
                "source": load.source,
                "age_seconds": 0.0 if load.source == "counted" else round((now - load.at) / 1e9, 3),
                "waiting": load.waiting,
                "running": self.outstanding if load.source == "counted" else load.running,
                "slots": load.slots,
                "queued_tokens": load.queued_tokens,
                "expected_tokens": load.expected_tokens,
                "free_tokens": load.free_tokens,
                "pool_tokens": load.pool_tokens,
                "cached_tokens": load.cached_tokens,
            },
            "requests": counts.requests,
            "errors": counts.errors,
            "retries": counts.retries,
            "cooldowns": counts.cooldowns,
            "tokens": counts.tokens,
        }
