"""Upstream: one server behind the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import SecretStr

Kind: TypeAlias = Literal["", "fastserve", "vllm", "llama-server", "ollama", "openai"]
State: TypeAlias = Literal["starting", "healthy", "failing", "draining"]


@dataclass(slots=True)
class Counts:
    """Since it was added."""

    requests: int = 0
    errors: int = 0
    retries: int = 0
    tokens: int = 0


@dataclass(slots=True, eq=False)
class Upstream:
    """replica: its number, never used again. models: as its /v1/models tells, or as given. owner: the part that added
    it, which alone removes it; empty for settings and people. key: its bearer token, shown nowhere.
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
    given_models: bool = False
    counts: Counts = field(default_factory=Counts)
    outstanding: int = 0
    outstanding_tokens: int = 0

    def shown(self) -> dict[str, Any]:
        """For people and programs; without the key."""
        return {
            "replica": self.replica,
            "name": self.name,
            "url": self.url,
            "weight": self.weight,
            "has_key": self.key is not None,
            "models": list(self.models),
            "kind": self.kind,
            "state": self.state,
            "owner": self.owner,
            "outstanding": self.outstanding,
            "outstanding_tokens": self.outstanding_tokens,
            "requests": self.counts.requests,
            "errors": self.counts.errors,
            "retries": self.counts.retries,
            "tokens": self.counts.tokens,
        }
