"""The backend of a live experiment, with its model loaded once, and what it stands in front of."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from experiments._lib.upstream_server import server

if TYPE_CHECKING:
    from fastserve.launch import Body

Options = tuple[tuple[str, Any], ...]


def body_of(backend: str, model: str, options: Options, before: str, slots: int) -> Body:
    """before: the kind of server to stand in front of, with so many slots; it is started, and stays. "": of none."""
    if before:
        options = (*options, ("upstream", server(before, slots).url), ("upstream_slots", slots))
    return _loaded(backend, model, options)


@lru_cache(maxsize=1)
def _loaded(backend: str, model: str, options: Options) -> Body:
    from fastserve.launch import Body

    return Body(model, backend, **dict(options))
