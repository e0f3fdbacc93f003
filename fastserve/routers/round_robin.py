"""Round robin: the replicas in turn."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.routers.router import Router
from fastserve.routers.turns import Turns
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job


class RoundRobin(Router):
    """Of those that may be chosen, whoever was chosen longest ago: with a fixed set of replicas, each in turn. Weights
    do not count; `weighted` is round robin by weight.
    """

    def __init__(self) -> None:
        self.turns = Turns()

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        return self.turns.take(views, range(len(views)))

    def lost(self, replica: int, now: int) -> None:
        self.turns.forget(replica)
