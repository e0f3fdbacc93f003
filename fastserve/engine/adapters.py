"""Adapters: what a request may ask for beside its base model, as the engine and its body call it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from fastserve.engine.backend import Adapting
    from fastserve.engine.loop import Loop

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


class Loading:
    """Of an engine: which adapters its model has, and how one comes and goes while it runs. Any thread."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    @property
    def loaded(self) -> Mapping[str, Adapter]:
        """By name; empty on a body that has none."""
        return {} if (body := self._body) is None else body.adapters

    def find(self, name: str) -> Adapter:
        """Raises UnknownAdapterError."""
        loaded = self.loaded
        if name not in loaded:
            there = ", ".join(loaded) or "there is none"
            raise UnknownAdapterError(f"no adapter {name!r} is loaded; those that are: {there}")
        return loaded[name]

    def load(self, name: str, path: str) -> Adapter:
        """Reads it on the calling thread, and puts it in place between two iterations. Raises ValueError for one that
        cannot be loaded, OSError, MemoryError, and RuntimeError when the engine is closed or broken; then nothing has
        changed.
        """
        body = self._body
        if body is None:
            raise ValueError(f"backend {self._loop.backend.info.backend} takes no adapters for single requests")
        ready = body.read_adapter(name, path)
        adapter: Adapter = self._between(lambda: body.place_adapter(ready))
        return adapter

    def unload(self, name: str) -> None:
        """Raises UnknownAdapterError, AdapterInUseError while requests live that use it, and RuntimeError as load()."""
        self.find(name)
        body = self._body
        assert body is not None
        self._between(lambda: body.drop_adapter(name))

    @property
    def _body(self) -> Adapting | None:
        backend = self._loop.backend
        return cast("Adapting", backend) if backend.traits.adapts else None

    def _between(self, call: Any) -> Any:
        """What this call returns on the engine's thread between two iterations."""
        try:
            return self._loop.inbox.ask(call).result()
        except CancelledError:
            raise RuntimeError(f"the engine has stopped: {self._loop.error or 'it was closed'}") from None
