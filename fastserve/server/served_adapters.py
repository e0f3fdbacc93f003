"""ServedAdapters: the adapters of a server's engine, as its routes and durable jobs see them. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastserve.engine import Engine
from fastserve.engine.adapters import Adapter
from fastserve.server.api.errors import ApiError

if TYPE_CHECKING:
    from fastserve.server.jobs.durable import Durable
    from fastserve.server.jobs.jobs import JobRegistry


class ServedAdapters:
    """model: the base model's name for clients. lock: held while one comes or goes. Raises ValueError where the model
    and an adapter have one name.
    """

    def __init__(self, engine: Engine, model: str, registry: JobRegistry, durable: Durable) -> None:
        self.base_names = (model, engine.model_name)
        self._engine = engine
        self._registry = registry
        self._durable = durable
        self.lock = asyncio.Lock()
        if model in self.loaded:
            raise ValueError(f"served_model_name={model!r} is an adapter's name too: give one of them another")

    @property
    def loaded(self) -> Mapping[str, Adapter]:
        return self._engine.adapters.loaded

    def of_model(self, name: str | None) -> str:
        """The adapter of this name; "" for the base model, which none and "" mean too. Raises ApiError 404 for a model
        that is not served.
        """
        if not name or name in self.base_names:
            return ""
        if name not in self.loaded:
            there = ", ".join(map(repr, (self.base_names[0], *self.loaded)))
            raise ApiError(404, f"the model {name!r} is not served here; there is {there}", param="model")
        return name

    def users(self, name: str) -> int:
        """Requests and durable jobs that have not ended and ask for it; those that wait for it to be loaded again do
        not count.
        """
        waiting = self._durable.waiting
        return sum(job.adapter == name and job.ended is None and job not in waiting
                   for job in self._registry.jobs.values())  # fmt: skip

    def came(self) -> None:
        """One has been loaded: durable jobs that have waited for it go on."""
        self._durable.resume_waiting()
