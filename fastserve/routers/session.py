"""Session: all requests of a program, or else of a client, go to one replica, where their context is cached."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.routers.rendezvous import Rendezvous
from fastserve.routers.router import Router
from fastserve.routers.turns import Turns
from fastserve.routers.view import ReplicaView
from fastserve.sched.checks import number
from fastserve.sched.job import Job

NOBODY = ("", "default")
"""Names of those who have not given one; they are not kept together."""


class Session(Router):
    """Sticky by job.program, or by job.client where it has none, or by neither: then the fewest outstanding requests
    over weight. The replica is the key's by rendezvous hashing over those offered, without a table: nothing is to be
    remembered or to expire, and when a replica goes or comes, only its share of the keys moves. vLLM's production stack
    and sglang's router offer the same under the names `session` and `consistent hashing`.

    bound: at most so many times the mean of outstanding requests over weight, the new one included, and the next one in
    the key's order beyond that: consistent hashing with bounded loads (Mirrokni and others, arXiv 1608.01350); at least
    1, for example 1.25. 0: none.
    """

    def __init__(self, bound: float = 0.0) -> None:
        number("bound", bound, 0)
        if 0 < bound < 1:
            raise ValueError(f"bound={bound} must be at least 1, or 0 for none: a mean is less than that only for some")
        self.bound = bound
        self.rendezvous = Rendezvous()
        self.turns = Turns()
        self.why = ""

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        key = self._key(job)
        if not key:
            self.why = "neither program nor client"
            return self.turns.least(views, [view.outstanding / view.weight for view in views])
        scores = self.rendezvous.scores(key, views)
        order = sorted(range(len(views)), key=scores.__getitem__, reverse=True)
        index = next((index for index in order if self._has_room(views[index], views)), order[0])
        self.why = f"{key} is there" if index == order[0] else f"{key}'s own, {views[order[0]].name}, is overloaded"
        return index

    def _key(self, job: Job) -> str:
        if job.program not in NOBODY:
            return f"program {job.program}"
        return f"client {job.client}" if job.client not in NOBODY else ""

    def _has_room(self, view: ReplicaView, views: Sequence[ReplicaView]) -> bool:
        if not self.bound:
            return True
        share = (sum(one.outstanding for one in views) + 1) / sum(one.weight for one in views)
        return view.outstanding + 1 <= max(1.0, self.bound * share * view.weight)

    def lost(self, replica: int, now: int) -> None:
        self.turns.forget(replica)

    def explain(self, job: Job) -> str:
        return self.why
