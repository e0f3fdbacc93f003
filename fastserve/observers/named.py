"""Observers as command lines ask for them: the shipped ones by their files, your own by where its class is."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from fastserve.importing import class_of
from fastserve.observers.iterations import IterationLog
from fastserve.observers.timeline import Timeline
from fastserve.sched.observer import Observer


def find(name: str) -> type[Observer]:
    """The class behind module:Class or ./file.py:Class. Raises ValueError with what is wrong."""
    return class_of("observer", name, Observer)


def make(name: str) -> Observer:
    """A fresh one. Raises ValueError where it cannot be imported or made without arguments."""
    kind: type[Observer] | None = None
    try:
        kind = find(name)
        return kind()
    except KeyboardInterrupt:
        raise
    except (Exception, SystemExit) as error:  # the user's own module or constructor
        if kind is None and isinstance(error, ValueError):  # find() has said what is wrong with the name
            raise
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"observer {name!r} cannot be imported and made without arguments: {what}") from error


def check_apart(
    timeline: str | PathLike[str] | None,
    iterations: str | PathLike[str] | None,
    programs: str | PathLike[str] | None = None,
    routes: str | PathLike[str] | None = None,
    report: str | PathLike[str] | None = None,
) -> None:
    """Raises ValueError where two are to be written into one file."""
    names: dict[Path, tuple[str, str | PathLike[str]]] = {}
    asked = (
        ("timeline", timeline), ("iterations", iterations), ("programs-csv", programs), ("route-log", routes),
        ("report", report),
    )  # fmt: skip
    for name, file in asked:
        if file is not None:
            other, first = names.setdefault(Path(file).resolve(), (name, file))
            if other != name:
                raise ValueError(f"{other} and {name} are both {first}: give each a file of its own")


def chosen(
    timeline: str | PathLike[str] | None = None,
    iterations: str | PathLike[str] | None = None,
    names: Iterable[str] = (),
) -> list[Observer]:
    """For one live run, whose files are written as it goes on.

    Raises OutputError for a file that cannot be written, ValueError for an observer that cannot be made.
    """
    check_apart(timeline, iterations)
    own = [make(name) for name in names]
    shipped: list[Observer] = [] if timeline is None else [Timeline(timeline)]
    shipped += [] if iterations is None else [IterationLog(iterations)]
    return shipped + own
