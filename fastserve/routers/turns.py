"""Turns: of several that are equally good, whoever was chosen longest ago."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastserve.routers.view import ReplicaView


class Turns:
    """Without it the first replica of the list would get every request that finds all idle. Whoever has never been
    chosen comes before all others, and those by their order in the views.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[int, int] = {}  # replica -> turn in which it was chosen last

    def take(self, views: Sequence[ReplicaView], best: Iterable[int]) -> int:
        """The index of `best`, indices into views, whose turn it is; that turn is taken."""
        last = self._last
        index = min(best, key=lambda index: last.get(views[index].replica, 0))
        return self._taken(views, index)

    def least(self, views: Sequence[ReplicaView], costs: Sequence[float]) -> int:
        """The index of the least cost, whose turn it is on a tie; costs[i] is that of views[i]."""
        least = min(costs)
        if costs.count(least) == 1:
            return self._taken(views, costs.index(least))
        return self.take(views, [index for index, cost in enumerate(costs) if cost == least])

    def _taken(self, views: Sequence[ReplicaView], index: int) -> int:
        self._turn += 1
        self._last[views[index].replica] = self._turn
        return index

    def forget(self, replica: int) -> None:
        self._last.pop(replica, None)
