"""How far a sweep is: a line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def wanted(asked: bool | None) -> bool:
    """None: on a terminal."""
    return sys.stderr.isatty() if asked is None else asked


def progress(items: Iterable[T], title: str, total: int, done: int, unit: str = "case") -> Iterator[T]:
    """The items, with a bar on a terminal; without one, a line at the start and one a minute. done: before these."""
    from tqdm import tqdm

    every = {"mininterval": 0.5} if sys.stderr.isatty() else {"mininterval": 60.0, "ncols": 90}
    yield from tqdm(items, desc=title, total=total, initial=done, unit=unit, file=sys.stderr, **every)
