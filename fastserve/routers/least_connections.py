"""Least connections: the replica with the fewest requests on their way, over its weight."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.routers.load import load_named
from fastserve.routers.router import Router
from fastserve.routers.turns import Turns
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job


class LeastConnections(Router):
    """min(load / weight), the rule of nginx's `least_conn` and HAProxy's `leastconn`; ties in turn.

    load: outstanding, the requests of this sender that have not ended, which it counts itself, so that they are never
    old; outstanding-tokens; or jobs or tokens as the replica told them, which is "join the shortest queue" by views
    that may be old. Requests do not tell a short answer from a long one.
    """

    def __init__(self, load: str = "outstanding") -> None:
        self.load = load_named(load)
        self.turns = Turns()

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        load = self.load
        return self.turns.least(views, [load(view) / view.weight for view in views])

    def lost(self, replica: int, now: int) -> None:
        self.turns.forget(replica)
