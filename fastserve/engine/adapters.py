"""Adapters: what a request may ask for beside its base model, as the engine and its body call it."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Adapter:
    """One that is loaded. number: of this load, never used again: weights that come later under the same name are
    another adapter, and what is cached of this one's KV is not theirs. path: as it was given. base: the model that its
    files name, may be empty. bytes: that it takes where the model runs.
    """

    name: str
    path: str
    base: str
    rank: int
    bytes: int
    number: int

    @property
    def scope(self) -> str:
        """Where the chain of ids of its prompts begins, see UnitNames.root()."""
        return f"{self.number}:{self.name}"


class UnknownAdapterError(ValueError):
    """No adapter of this name is loaded."""


class AdapterInUseError(RuntimeError):
    """Requests that live use it, so it cannot go."""


def check_name(name: str) -> str:
    """Raises ValueError for one that cannot be an adapter's."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise ValueError(
            f"an adapter's name must be 1 to {LONGEST_NAME} printable characters, and {name[:80]!r} is not"
        )
    return name


def named(given: str) -> tuple[str, str]:
    """(name, path) of NAME=PATH, as the option lora has them. Raises ValueError."""
    name, _, path = given.partition("=")
    if not name or not path:
        raise ValueError(f"lora={given!r}: give NAME=FOLDER, where requests ask for model NAME")
    return check_name(name), path
