"""Schedules: of which runs the page shows the schedule, and who looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastserve.observers.schedule import Schedule
from fastserve.policies.spec import PolicySpec
from sim.cluster.cluster import Cluster

Look = Callable[[Any], None]
"""Attaches observers to a World or a Cluster."""


class Schedules:
    """Looks at the runs of one seed, of every policy; of a cluster at its first replica. `of`: by label.

    beside: who looks, too, as replay() asks.
    """

    def __init__(self, seed: int = 0, beside: Callable[[PolicySpec, str, int], Look | None] | None = None) -> None:
        self.seed = seed
        self.beside = beside
        self.of: dict[str, Schedule] = {}
        self.notes: dict[str, str] = {}  # by label: what a schedule is of, where it is not of all

    def observe(self, spec: PolicySpec, label: str, seed: int) -> Look | None:
        """As replay() asks for each run."""
        other = None if self.beside is None else self.beside(spec, label, seed)
        if seed != self.seed:
            return other

        def attach(world: Any) -> None:
            if other is not None:
                other(world)
            self._attach(world, label)

        return attach

    def _attach(self, world: Any, label: str) -> None:
        schedule = self.of[label] = Schedule()
        if not isinstance(world, Cluster):
            world.attach(schedule)
            return
        count = len(world.replicas)
        self.notes[label] = f"{world.names[0].name}, the first of {count} replicas: its jobs alone"
        world.attach_each(lambda replica, life: self._first(replica, life, schedule))

    @staticmethod
    def _first(replica: Any, life: int, schedule: Schedule) -> None:
        """Until it fails: one that comes back is another."""
        if replica.number == 0 and life == 1:
            replica.attach(schedule)
