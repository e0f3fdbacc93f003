"""Power of two choices: of two replicas by lot, the less loaded."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from fastserve.routers.load import load_named
from fastserve.routers.router import Router, RouterFacts
from fastserve.routers.view import ReplicaView
from fastserve.sched.checks import at_least
from fastserve.sched.job import Job


class PowerOfTwo(Router):
    """min(load / weight) of `choices` different replicas, drawn uniformly; on a tie the one drawn first.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 12:10, 2001): one look at a second
    replica takes most of the way from random to the least loaded. And "How Useful Is Old Information?" (TPDS 11:1,
    2000): where views are old, everybody sends to the replica that was the least loaded, until the next view; two by
    lot never all meet.

    load: outstanding (counted by the sender, never old), outstanding-tokens, jobs (waiting and running, as the view
    tells) or tokens (queued and expected, as the view tells). choices: 1 is random, as many as there are is the least
    loaded.
    """

    def __init__(self, load: str = "outstanding", choices: int = 2) -> None:
        at_least("choices", choices, 1)
        self.load = load_named(load)
        self.choices = choices

    def begin(self, facts: RouterFacts) -> None:
        super().begin(facts)
        self.random = Random(facts.seed)

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        drawn = self.random.sample(range(len(views)), min(self.choices, len(views)))
        return min(drawn, key=lambda index: self.load(views[index]) / views[index].weight)
