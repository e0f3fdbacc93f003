"""A policy of your own by where it is: module:Class, or a file as ./mine.py:Mine or /abs/mine.py:Mine."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType

from fastserve.sched.policy import Policy

SUFFIX = ".py"
_files: dict[str, Path] = {}
"""Module that load() has made of a file -> the file."""


def imported(name: str, known: str) -> type[Policy]:
    """The class behind module:Class or file:Class; the current folder is importable. known: what else there is.

    Raises ValueError with what was looked for and what there is; whatever the module itself raises goes through.
    """
    where, _, class_name = name.rpartition(":")
    if not where:
        hint = " (a file too takes its class: ./mine.py:Mine)" if name.endswith(SUFFIX) else ""
        raise ValueError(f"no policy {name!r}; there are {known}, or give your own as module:Class{hint}")
    is_file = where.endswith(SUFFIX) or "/" in where or os.sep in where
    module = load(name, Path(where)) if is_file else _module(name, where)
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Policy)):
        mine = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Policy)]
        what = "is no subclass of fastserve.Policy" if found is not None else "does not exist"
        raise ValueError(f"policy {name!r}: {class_name} {what}; {where} has {', '.join(mine) or 'no policies'}")
    return found


def address(policy: type[object] | object) -> str:
    """module:Class as imported() takes it, in any process and folder; of a class that load() read, its file:Class."""
    module = getattr(policy, "__module__", "")
    return f"{_files.get(module, module)}:{getattr(policy, '__qualname__', repr(policy))}"


def absolute(name: str) -> str:
    """The same policy from any folder: a relative file becomes its whole path, and any other name stays."""
    where, _, class_name = name.rpartition(":")
    return f"{Path(where).resolve()}:{class_name}" if where.endswith(SUFFIX) else name


def load(name: str, file: Path) -> ModuleType:
    """A file as a module, once a process. Its name depends on its path alone, so that all processes call it alike.

    Its folder becomes importable, as for a script that is run.
    """
    path = file.resolve()
    if not path.is_file():
        raise ValueError(f"policy {name!r}: there is no file {path}")
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"policy {name!r}: {path} is no Python source; its name must end with {SUFFIX}")
    _importable(str(path.parent))
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    _files[module_name] = path
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name], _files[module_name]
        raise
    return module


def _module(name: str, module_name: str) -> ModuleType:
    here = os.getcwd()
    _importable(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ValueError(f"policy {name!r}: no module {module_name!r} in {here} or on the Python path") from None


def _importable(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
