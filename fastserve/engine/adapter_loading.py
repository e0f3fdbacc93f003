"""Loading: adapters that come and go while an engine runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any, cast

from fastserve.engine.adapters import Adapter, UnknownAdapterError
from fastserve.engine.backend import Adapting
from fastserve.engine.loop import Loop


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
        return cast(Adapting, backend) if backend.traits.adapts else None

    def _between(self, call: Callable[[], Any]) -> Any:
        """What this call returns on the engine's thread between two iterations."""
        try:
            return self._loop.inbox.ask(call).result()
        except CancelledError:
            raise RuntimeError(f"the engine has stopped: {self._loop.error or 'it was closed'}") from None
