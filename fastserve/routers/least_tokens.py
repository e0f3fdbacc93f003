"""Least tokens: the replica with the fewest tokens still to compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fastserve.routers.router import Router
from fastserve.routers.sent_since import SentSince
from fastserve.routers.turns import Turns
from fastserve.routers.view import ReplicaView
from fastserve.sched.checks import number
from fastserve.sched.job import Job


class LeastTokens(Router):
    """min((prefill * queued_tokens + decode * expected_tokens) / weight), ties in turn: "join the shortest queue",
    where a queue is as long as the work in it. Splitwise (arXiv 2311.18677, section 5) routes by pending tokens.

    prefill, decode: what a prompt token and an output token count. add_sent: add what was sent since the view was
    true; without it all requests between two views go to one replica.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"guess"})

    def __init__(self, prefill: float = 1.0, decode: float = 1.0, add_sent: bool = True) -> None:
        number("prefill", prefill, 0)
        number("decode", decode, 0)
        self.prefill = prefill
        self.decode = decode
        self.add_sent = add_sent
        self.turns = Turns()
        self.since = SentSince()
        self.costs: list[float] = []  # of the last choice, by its views
        self.chosen = 0

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        costs = [self._cost(view.queued_tokens, view.expected_tokens, view.weight) for view in views]
        for index, missing in self.since.missing(views, job):
            view = views[index]
            prompt, expected = view.queued_tokens + missing.prompt, view.expected_tokens + missing.expected
            costs[index] = self._cost(prompt, expected, view.weight)
        self.costs = costs
        self.chosen = self.turns.least(views, costs)
        return self.chosen

    def _cost(self, prompt: int, expected: int, weight: float) -> float:
        return (self.prefill * prompt + self.decode * expected) / weight

    def sent(self, job: Job, replica: int, now: int) -> None:
        if self.add_sent:
            self.since.note(job, replica, now, job.prompt)

    def lost(self, replica: int, now: int) -> None:
        self.turns.forget(replica)
        self.since.forget(replica)

    def explain(self, job: Job) -> str:
        others = [cost for index, cost in enumerate(self.costs) if index != self.chosen]
        least = f", the others {min(others):,.0f} and more" if others else ""
        return f"{self.costs[self.chosen]:,.0f} tokens to compute{least}" if self.costs else ""
