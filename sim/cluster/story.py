"""Story: the life of one job in a cluster: where it was sent and why, and what became of it there."""

from __future__ import annotations

from fastserve.observers.explain import Explanation, Line
from fastserve.sched.job import Job
from sim.cluster.cluster import Cluster
from sim.cluster.replica import Replica


class Story(Explanation):
    """Of the job with this id. It watches all replicas, and is told what happens between them."""

    def __init__(self, id: int, cluster: Cluster) -> None:
        super().__init__(id)
        self.lives: list[tuple[str, Explanation]] = []
        self.names = cluster.names
        cluster.notes.append(self.noted)
        cluster.attach_each(self.watch)

    def watch(self, replica: Replica, life: int) -> None:
        one = Explanation(self.id)
        self.lives.append((self.names[replica.number].name, one))
        replica.attach(one)

    def noted(self, job: Job, at: int, what: str) -> None:
        if job.id == self.id:
            self.lines.append(Line(at, at - job.arrival, job.served, job.generated, what))

    def told(self) -> list[Line]:
        lines = list(self.lines)
        for name, life in self.lives:
            lines += [line._replace(what=f"{name}: {line.what}") for line in life.lines]
        return sorted(lines, key=lambda line: line.at)
