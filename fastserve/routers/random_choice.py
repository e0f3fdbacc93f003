"""Random: a replica by lot."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from fastserve.routers.router import Router, RouterFacts
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job


class RandomChoice(Router):
    """Each with a probability in proportion to its weight. The yardstick for every rule that looks at anything."""

    def begin(self, facts: RouterFacts) -> None:
        super().begin(facts)
        self.random = Random(facts.seed)

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        return self.random.choices(range(len(views)), [view.weight for view in views])[0]
