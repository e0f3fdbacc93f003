"""Contenders of a comparison: a policy (PolicySpec), a running server (Server), vLLM's own scheduler (VllmItself)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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


@dataclass(frozen=True, slots=True)
class VllmItself:
    """vLLM as it is, with its own first come, first served."""

    label: str = ""

    name: ClassVar[str] = "vllm"

    @property
    def title(self) -> str:
        return self.label or self.name

    @property
    def needs_guess(self) -> bool:
        return False


Contender = PolicySpec | Server | VllmItself


def its_own(contenders: Sequence[Contender]) -> list[Contender]:
    """The contenders, where `--policy vllm` is vLLM's own scheduler. Raises ValueError for settings of it."""
    found: list[Contender] = []
    for one in contenders:
        if isinstance(one, PolicySpec) and one.policy == VllmItself.name:
            if one.knobs:
                raise ValueError(
                    f"--set {next(iter(one.knobs))}: vllm is vLLM's own scheduler; its flags stand after --"
                )
            found.append(VllmItself(one.label))
        else:
            found.append(one)
    return found


def lined_up(contenders: Sequence[Contender]) -> list[Contender]:
    """The contenders with distinct labels. Raises ValueError for two of equal label."""
    own = iter(told_apart([one for one in contenders if isinstance(one, PolicySpec)]))
    found: list[Contender] = [next(own) if isinstance(one, PolicySpec) else one for one in contenders]
    check_labels([one.title for one in found])
    return found
