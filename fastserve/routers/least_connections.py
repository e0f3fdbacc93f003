"""Least connections: the replica with the fewest requests of this sender on their way, over its weight."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.routers.router import Router
from fastserve.routers.turns import Turns
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job


class LeastConnections(Router):
    """min(outstanding / weight), the rule of nginx's `least_conn` and HAProxy's `leastconn`; ties in turn.

    The sender counts these itself, so they are never old. They do not tell a short request from a long one.
    """

    def __init__(self) -> None:
        self.turns = Turns()

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        return self.turns.least(views, [view.outstanding / view.weight for view in views])

    def lost(self, replica: int, now: int) -> None:
        self.turns.forget(replica)
