"""LiveView: what a router sees of a simulated replica, read from its Scheduler when it is asked for."""

from __future__ import annotations

from fastserve.routers.view import ReplicaView
from sim.cluster.replica import Replica


class LiveView(ReplicaView):
    """of: the replica, a new one when it has come back."""

    __slots__ = ("of",)

    def __init__(self, of: Replica, name: str, weight: float) -> None:
        self.of = of
        self.replica = of.number
        self.name = name
        self.weight = weight
        self.healthy = True
        self.outstanding = 0
        self.outstanding_tokens = 0
        self.age = 0
        self.source = "load"
