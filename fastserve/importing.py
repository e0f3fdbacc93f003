"""Something of a user's own by where it is: module:Class, or a file as ./mine.py:Mine or /abs/mine.py:Mine."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeVar, cast


def extra(names: str) -> str:
    """What to do where something optional is not installed. names: of the extras, with commas."""
    return f"in a clone: make setup-all, or pip install -e '.[{names}]'"


def missing(error: ImportError, names: str) -> str:
    """What is said of an import that failed, with what to do unless it says so itself. names: see extra()."""
    return str(error) if isinstance(error, MissingPackageError) else f"{error}; {extra(names)}"


class MissingPackageError(ImportError):
    """A package is not installed; the message says how to get it."""


def needs(backend: str, package: str, extra: str) -> None:
    """Call it before a body's heavy package is imported: MissingPackageError where it is not installed.

    package: as it is imported. extra: of this project, that brings it. Nothing is imported.
    """
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"backend {backend} needs {package}: pip install 'fastserve-testbed[{extra}]'", name=package
        )


T = TypeVar("T")
SUFFIX = ".py"
_files: dict[str, Path] = {}
"""Module that load() has made of a file -> the file."""


def class_of(noun: str, name: str, base: type[T], known: str = "") -> type[T]:
    """The subclass of `base` behind module:Class or file:Class. noun: what it is. known: what else there is.

    Raises ValueError with what was looked for and what there is; whatever the module itself raises goes through.
    """
    where, _, class_name = name.rpartition(":")
    if not where:
        hint = " (a file too takes its class: ./mine.py:Mine)" if name.endswith(SUFFIX) else ""
        there = f"there are {known}, or give" if known else "give"
        raise ValueError(f"no {noun} {name!r}; {there} your own as module:Class{hint}")
    module = module_of(f"{noun} {name!r}", where)
    found = getattr(module, class_name, None)
    if not _below(found, base):
        own = [key for key, value in vars(module).items() if _below(value, base)]
        what = f"is no subclass of fastserve.{base.__name__}" if found is not None else "does not exist"
        raise ValueError(f"{noun} {name!r}: {class_name} {what}; {where} has {', '.join(own) or f'no {noun}'}")
    return cast("type[T]", found)


def _below(found: object, base: type[object]) -> bool:
    return inspect.isclass(found) and issubclass(found, base) and found is not base


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
