"""Contenders of a comparison: a policy on our own engine (PolicySpec), or a running server (Server)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastserve.policies.spec import PolicySpec, check_labels, told_apart


@dataclass(frozen=True, slots=True)
class Server:
    """A running server at `url`, with its own policy and settings."""

    url: str
    label: str = ""

    @property
    def title(self) -> str:
        return self.label or self.url

    @property
    def name(self) -> str:
        return self.url

    @property
    def needs_guess(self) -> bool:
        return False


Contender = PolicySpec | Server


def lined_up(contenders: Sequence[Contender]) -> list[Contender]:
    """The contenders with distinct labels. Raises ValueError for two of equal label."""
    own = iter(told_apart([one for one in contenders if isinstance(one, PolicySpec)]))
    found: list[Contender] = [next(own) if isinstance(one, PolicySpec) else one for one in contenders]
    check_labels([one.title for one in found])
    return found
