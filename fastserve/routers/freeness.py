"""Freeness: the replica whose free KV lasts for the most decode steps, Llumnix's rule."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from fastserve.routers.router import Router
from fastserve.routers.sent_since import SentSince
from fastserve.routers.turns import Turns
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job


class Freeness(Router):
    """max((pool - virtual usage) / requests): tokens of the KV pool that are left when all who wait have theirs, over
    all requests there, each of which takes one a step. Negative where more is wanted than there is; who has no request
    comes first; ties in turn. Llumnix (OSDI'24, section 4.4.3), its metric `remaining_steps`: pool - virtual usage is
    free_tokens + cached_tokens - queued_tokens.

    Where a view does not tell what is free: the fewest outstanding tokens over weight, for all of that choice. Weights
    do not count otherwise: a larger replica has more room. add_sent: count what was sent since the view was true as
    waiting there.
    """

    def __init__(self, add_sent: bool = True) -> None:
        self.add_sent = add_sent
        self.turns = Turns()
        self.since = SentSince()
        self.told = False  # by all views of the last choice, what is free
        self.cost = 0.0  # of the last choice: -freeness in steps, minus infinity: no request there; else tokens

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        self.told = None not in [view.free_tokens for view in views]
        if self.told:
            costs = [-self._freeness(view, 0, 0) for view in views]
            for index, missing in self.since.missing(views, job):
                costs[index] = -self._freeness(views[index], missing.requests, missing.prompt)
        else:
            costs = [view.outstanding_tokens / view.weight for view in views]
        index = self.turns.least(views, costs)
        self.cost = costs[index]
        return index

    def _freeness(self, view: ReplicaView, sent: int, prompt: int) -> float:
        """sent, prompt: requests and tokens that are missing in the view."""
        requests = view.waiting + view.running + sent
        left = (view.free_tokens or 0) + view.cached_tokens - view.queued_tokens - prompt
        return left / requests if requests else inf

    def sent(self, job: Job, replica: int, now: int) -> None:
        if self.add_sent:
            self.since.note(job, replica, now, job.prompt)

    def lost(self, replica: int, now: int) -> None:
        self.turns.forget(replica)
        self.since.forget(replica)

    def explain(self, job: Job) -> str:
        if not self.told:
            return f"{self.cost:,.0f} tokens outstanding; what is free is not known"
        return f"its free KV lasts {-self.cost:,.0f} steps" if self.cost > -inf else "no request there"
