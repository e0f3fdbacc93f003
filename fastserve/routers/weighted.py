"""Weighted: smooth weighted round robin, nginx's."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.routers.router import Router
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job


class Weighted(Router):
    """Each replica gains its weight at every choice; the one with most is chosen and pays what all have gained. So
    weights 5, 1, 1 give a a b a c a a, and not five in a row: nginx's default since 1.3.1.

    It looks at nothing but weights: `least-connections` goes by weight and by load.
    """

    def __init__(self) -> None:
        self.credit: dict[int, float] = {}  # replica -> credit; sums to 0 over those that are always offered together

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        credit = self.credit
        for view in views:
            credit[view.replica] = credit.get(view.replica, 0.0) + view.weight
        index = max(range(len(views)), key=lambda index: credit[views[index].replica])
        credit[views[index].replica] -= sum(view.weight for view in views)
        return index

    def lost(self, replica: int, now: int) -> None:
        self.credit.pop(replica, None)
