"""Path: the ids of a prompt's units in a few parts, so that a thousand turns of a conversation need not copy them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import overload

from fastserve.sched.units import Ids


class Path(Sequence[int]):
    """Its parts one after the other; none is empty. Not changed once it is made, and not compiled: Sequence is not."""

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: Sequence[Ids]) -> None:
        self._parts = parts
        self._ends: list[int] = []
        end = 0
        for part in parts:
            end += len(part)
            self._ends.append(end)

    @property
    def parts(self) -> Sequence[Ids]:
        return self._parts

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[int]: ...
    def __getitem__(self, at: int | slice) -> int | Sequence[int]:
        if isinstance(at, slice):
            return tuple(self)[at]
        ends = self._ends
        if at < 0:
            at += len(self)
            if at < 0:
                raise IndexError(at)
        part = bisect_right(ends, at)
        return self._parts[part][at - ends[part]]  # counted from the part's end; past the last part an IndexError

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._parts)


def joined(ids: Ids, more: Ids) -> Ids:
    """One path of two."""
    if not (ids and more):
        return ids or more
    if isinstance(ids, range) and isinstance(more, range) and ids.stop == more.start and ids.step == more.step == 1:
        return range(ids.start, more.stop)
    return Path((ids, more))
