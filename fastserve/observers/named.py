"""Observers as command lines ask for them: the shipped ones by their files, your own by module:Class."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from os import PathLike

from fastserve.observers.iterations import IterationLog
from fastserve.observers.timeline import Timeline
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


def chosen(
    timeline: str | PathLike[str] | None = None,
    iterations: str | PathLike[str] | None = None,
    names: Iterable[str] = (),
) -> list[Observer]:
    """For one live run, whose files are written as it goes on.

    Raises OutputError for a file that cannot be written, ValueError for an observer that cannot be made.
    """
    own = [make(name) for name in names]
    shipped: list[Observer] = [] if timeline is None else [Timeline(timeline)]
    shipped += [] if iterations is None else [IterationLog(iterations)]
    return shipped + own
