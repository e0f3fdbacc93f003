"""LiveView: what a router sees of a simulated replica."""

from __future__ import annotations

from fastserve.routers.view import ReplicaView
from sim.cluster.looks import GROUPS, Looks, pool_of
from sim.cluster.replica import Replica


class LiveView(ReplicaView):
    """looks: fills in what is not there yet when somebody asks for it. What the sender counts itself the cluster writes
    here. Good during Router.route() only, as the contract has it.
    """

    __slots__ = ("looks", "of")

    def __init__(self, of: Replica, name: str, weight: float, looks: Looks) -> None:
        self.looks = looks
        self.replica = of.number
        self.name = name
        self.weight = weight
        self.healthy = True
        self.outstanding = 0
        self.outstanding_tokens = 0
        self.source = "load"
        if not looks.delay:
            self.age = 0
        self.stands_for(of)

    def stands_for(self, of: Replica) -> None:
        """Of: a new one when the one before has gone and it has come back."""
        self.of = of
        self.slots = of.scheduler.slots
        self.pool_tokens = pool_of(of)

    def __getattr__(self, name: str) -> object:
        """Python asks here for what has no value."""
        group = GROUPS.get(name)
        if group is None:
            raise AttributeError(f"{type(self).__name__} has no {name}", name=name, obj=self)
        self.looks.ask(self, group)
        return object.__getattribute__(self, name)
