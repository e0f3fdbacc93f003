"""Seen: which units of a trace's content there have been, of paths from the root on."""

from __future__ import annotations

from fastserve.sched.units import Ids


class Seen:
    """distinct: how many units there are, numbered from 0. Whatever has been seen has been from its first unit on."""

    def __init__(self, distinct: int) -> None:
        self._seen = bytearray(distinct)

    def leading(self, ids: Ids) -> int:
        """How many of the first units of this path have been seen. Takes log(units) looks."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if self._seen[ids[middle]]:
                low = middle + 1
            else:
                high = middle
        return low

    def add(self, ids: Ids, known: int = 0) -> None:
        """All of them are. known: the first so many of them are already."""
        more = ids[known:]
        if isinstance(more, range):
            self._seen[more.start : more.stop] = b"\1" * len(more)
        else:
            for id in more:
                self._seen[id] = 1
