"""A router on a desk: views by hand, jobs by hand, and a sender that tells it what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastserve.routers import Replica, ReplicaView, Router, RouterFacts, chosen, make
from fastserve.sched.job import Job

UNIT = 64


def router(name: str, count: int = 3, seed: int = 0, **knobs: Any) -> Router:
    """A fresh one that has begun, for replicas a, b, c..."""
    found = make(name, knobs)
    found.begin(RouterFacts(tuple(Replica(name_of(number)) for number in range(count)), UNIT, seed))
    return found


def name_of(number: int) -> str:
    return chr(ord("a") + number)


def view(number: int, **fields: Any) -> ReplicaView:
    return ReplicaView(number, name_of(number), **fields)


def views(field: str, values: Sequence[Any], **fields: Any) -> list[ReplicaView]:
    """One view for each of the values of this field."""
    return [view(number, **{field: value}, **fields) for number, value in enumerate(values)]


def job(
    id: int, prompt: int = 100, *, guess: int | None = None, program: str = "", client: str = "", **more: Any
) -> Job:
    return Job(id, more.pop("arrival", 0), prompt, guess=guess, program=program, client=client, **more)


def ids(content: str, units: int) -> list[int]:
    """Ids of so many units, one letter each: texts that begin alike share the first ones."""
    return [hash((content[: index + 1], index)) for index in range(units)]


def routed(router: Router, job: Job, views: Sequence[ReplicaView], now: int = 0) -> int:
    """The replica that it goes to."""
    replica = views[chosen(router, job, views)].replica
    router.sent(job, replica, now)
    return replica


def letters(router: Router, views: Sequence[ReplicaView], count: int, **job_fields: Any) -> str:
    """Where so many like jobs go, one letter each."""
    return "".join(name_of(routed(router, job(number, **job_fields), views)) for number in range(count))
