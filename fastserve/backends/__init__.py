"""Backends, by name: torch, llamacpp and onnx run models, upstream stands in front of another server, scripted is a
modelled machine without a model.

A backend of your own is named by import path, module:Class or ./file.py:Class, and is constructed by launch.Body as
Class(model, wanted, hardware, **options): see engine/backend.py for Wanted and the protocol.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from fastserve.importing import SUFFIX, module_of

__all__ = ["ALIASES", "BACKENDS", "checked", "find", "look", "prepared"]

BACKENDS: dict[str, str] = {
    "torch": "fastserve.backends.torch.backend:TorchBackend",
    "llamacpp": "fastserve.backends.llamacpp.backend:LlamaCppBackend",
    "onnx": "fastserve.backends.onnx.backend:OnnxBackend",
    "upstream": "fastserve.backends.upstream.backend:UpstreamBackend",
    "scripted": "fastserve.backends.scripted:ScriptedBackend",
}
"""Name -> where its class is. It is imported when it is asked for."""

LOOKS: dict[str, str] = {
    "torch": "fastserve.backends.torch.source:look",
    "llamacpp": "fastserve.backends.llamacpp.source:look",
    "onnx": "fastserve.backends.onnx.source:look",
}
"""Name -> what raises ValueError for a model that is not there, and imports nothing heavy."""

MAKERS: dict[str, str] = {"onnx": "fastserve.backends.torch.to_onnx.source:folder_of"}
"""Name -> what makes of a model's name the folder that this backend reads, where that is another backend's work; none
of its own, since backends do not import one another. Called with the options that it has as keyword-only parameters.
"""

METHODS = ("hardware", "admit", "run", "forget", "reset", "close")
"""Of engine.backend.Backend, which this module need not import."""

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


def look(name: str, model: Any, *, dummy: bool = False) -> None:
    """Raises ValueError for a model or a file of one's own that is not there; nothing heavy is imported.

    dummy: the model's weights are not read.
    """
    name = checked(name)
    if name in LOOKS and isinstance(model, str | PathLike):
        where, _, attribute = LOOKS[name].rpartition(":")
        getattr(import_module(where), attribute)(str(model), dummy)
    where = name.rpartition(":")[0]
    if name not in BACKENDS and where.endswith(SUFFIX) and not Path(where).is_file():
        raise ValueError(f"backend {name!r}: there is no file {Path(where).resolve()}")


def prepared(name: str, model: str | PathLike[str], options: Mapping[str, Any]) -> str | PathLike[str]:
    """What this backend loads for a model: most read it themselves. Raises what making it raises."""
    name = checked(name)
    if name not in MAKERS:
        return model
    where, _, attribute = MAKERS[name].rpartition(":")
    make = getattr(import_module(where), attribute)
    known = inspect.signature(make).parameters
    made: str | PathLike[str] = make(str(model), **{key: value for key, value in options.items() if key in known})
    return made


def find(name: str) -> Any:
    """The class of a body. ValueError for a name that is none, ImportError for what it needs and is not there."""
    name = checked(name)
    where, _, attribute = BACKENDS.get(name, name).rpartition(":")
    module = module_of(f"backend {name!r}", where)
    found = getattr(module, attribute, None)
    if found is None:
        raise ValueError(f"backend {name!r}: {where} has no {attribute}")
    lacking = [method for method in METHODS if not callable(getattr(found, method, None))]
    if lacking:
        raise ValueError(
            f"backend {name!r}: {attribute} is no fastserve.engine.backend.Backend, it has no {', '.join(lacking)}"
        )
    return found
