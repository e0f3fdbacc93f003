"""The bodies: what can do one iteration of a Plan. torch is the real one, scripted a modelled one without a model.

A body of your own comes by import path, module:Class or ./file.py:Class. It is called as Class(model, wanted, hardware,
**options): see engine/backend.py for Wanted and for what its objects must do, and launch.Body for who calls it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

__all__ = ["ALIASES", "BACKENDS", "checked", "find"]

BACKENDS: dict[str, str] = {
    "torch": "fastserve.backends.torch.backend:TorchBackend",
    "scripted": "fastserve.backends.scripted:ScriptedBackend",
}
"""Name -> where its class is. It is imported when it is asked for."""

ALIASES: dict[str, str] = {"pytorch": "torch"}


def checked(name: str) -> str:
    """As results and messages have it. ValueError, which lists the names, for one that is none; nothing is imported."""
    name = ALIASES.get(name, name)
    where, _, attribute = name.rpartition(":")
    if name not in BACKENDS and not (where and attribute):
        raise ValueError(
            f"no backend is called {name!r}: give {', '.join(BACKENDS)}, or one of your own as module:Class or "
            f"./file.py:Class"
        )
    return name


def find(name: str) -> Any:
    """The class of a body. ValueError for a name that is none, ImportError for what it needs and is not there."""
    name = checked(name)
    where, _, attribute = BACKENDS.get(name, name).rpartition(":")
    module = _from_file(Path(where)) if where.endswith(".py") else import_module(where)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ValueError(f"backend {name!r}: {where} has no {attribute}") from None


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"backend {path}: there is no such file")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
