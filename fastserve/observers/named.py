"""An observer of your own by where it is, for command lines: module:Class, made without arguments for each run."""

from __future__ import annotations

import importlib
import inspect
import os
import sys

from fastserve.sched.observer import Observer


def find(name: str) -> type[Observer]:
    """The class behind module:Class; the current folder is importable. Raises ValueError with what is wrong."""
    where, _, class_name = name.rpartition(":")
    if not where:
        raise ValueError(f"observer {name!r}: give it as module:Class")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name != where:
            raise
        raise ValueError(f"observer {name!r}: no module {where!r} in {here} or on the Python path") from None
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Observer)):
        what = "is no subclass of fastserve.Observer" if found is not None else "does not exist"
        raise ValueError(f"observer {name!r}: {class_name} {what} in {where}")
    return found


def make(name: str) -> Observer:
    """A fresh one. Raises ValueError where it cannot be imported or made without arguments."""
    try:
        return find(name)()
    except (ValueError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:  # the user's own module or constructor
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"observer {name!r} cannot be imported and made without arguments: {what}") from error
