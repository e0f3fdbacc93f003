"""Something of a user's own by where it is: module:Class, or a file as ./mine.py:Mine or /abs/mine.py:Mine."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

SUFFIX = ".py"
_files: dict[str, Path] = {}
"""Module that load() has made of a file -> the file."""


def module_of(told: str, where: str) -> ModuleType:
    """The module or file; the current folder is importable. told: what it is for, for messages.

    Raises ValueError where there is none; whatever the module itself raises goes through.
    """
    is_file = where.endswith(SUFFIX) or "/" in where or os.sep in where
    return load(told, Path(where)) if is_file else _module(told, where)


def address(thing: type[object] | object) -> str:
    """module:Class as module_of() takes it, in any process and folder; of a class that load() read, its file:Class."""
    module = getattr(thing, "__module__", "")
    return f"{_files.get(module, module)}:{getattr(thing, '__qualname__', repr(thing))}"


def absolute(name: str) -> str:
    """The same from any folder: a relative file becomes its whole path, and any other name stays."""
    where, _, class_name = name.rpartition(":")
    return f"{Path(where).resolve()}:{class_name}" if where.endswith(SUFFIX) else name


def load(told: str, file: Path) -> ModuleType:
    """A file as a module, once a process. Its name depends on its path alone, so that all processes call it alike.

    Its folder becomes importable, as for a script that is run.
    """
    path = file.resolve()
    if not path.is_file():
        raise ValueError(f"{told}: there is no file {path}")
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{told}: {path} is no Python source; its name must end with {SUFFIX}")
    _importable(str(path.parent))
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    _files[module_name] = path
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name], _files[module_name]
        raise
    return module


def _module(told: str, module_name: str) -> ModuleType:
    here = os.getcwd()
    _importable(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ValueError(f"{told}: no module {module_name!r} in {here} or on the Python path") from None


def _importable(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
