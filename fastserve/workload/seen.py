"""Seen: which units of a trace's content there have been, of paths from the root on."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.sched.path import Path
from fastserve.sched.units import Ids


class Seen:
    """distinct: how many units there are, numbered from 0. Whatever has been seen has been from its first unit on."""

    def __init__(self, distinct: int) -> None:
        self._seen = bytearray(distinct)

    def leading(self, ids: Ids) -> int:
        """How many of the first units of this path have been seen."""
        known = 0
        for part in _parts(ids):
            if isinstance(part, range):
                at = self._seen.find(0, part.start, part.stop)
                if at >= 0:
                    return known + at - part.start
            else:
                for at, id in enumerate(part):
                    if not self._seen[id]:
                        return known + at
            known += len(part)
        return known

    def add(self, ids: Ids) -> None:
        """All of them are."""
        for part in _parts(ids):
            if isinstance(part, range):
                self._seen[part.start : part.stop] = b"\1" * len(part)
            else:
                for id in part:
                    self._seen[id] = 1


def _parts(ids: Ids) -> Sequence[Ids]:
    return ids.parts if isinstance(ids, Path) else (ids,)
