"""Which parked KV leaves the device first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from fastserve.sched.ranking import Ranking


class Order:
    """The worst rank first."""

    name: ClassVar[str] = "reverse"

    def coldest(self, parked: list[Job], ranking: Ranking) -> Iterable[Job]:
        """All of `parked`, at least two, in the order in which they leave."""
        return sorted(parked, key=_warmth(ranking), reverse=True)


class ByPolicy(Order):
    """As the policy's coldest() says."""

    name: ClassVar[str] = "policy"

    def coldest(self, parked: list[Job], ranking: Ranking) -> Iterable[Job]:
        policy = ranking.policy
        if type(policy).coldest is Policy.coldest:
            return sorted(parked, key=_warmth(ranking), reverse=True)
        try:
            order = list(policy.coldest(list(parked)))
            complete = len(order) == len(parked) and set(order) == set(parked)
        except (Exception, SystemExit) as error:
            raise PolicyError(policy, "coldest", None, error) from error
        if not complete:
            raise PolicyError(
                policy, "coldest", None, f"named {len(order)} of {len(parked)} parked jobs; name each of them once"
            )
        return order


class LeastRecent(Order):
    """The least recently served first."""

    name: ClassVar[str] = "lru"

    def coldest(self, parked: list[Job], ranking: Ranking) -> Iterable[Job]:
        return sorted(parked, key=_last_served)


ORDERS: dict[str, type[Order]] = {cls.name: cls for cls in (ByPolicy, Order, LeastRecent)}


def _warmth(ranking: Ranking) -> Callable[[Job], tuple[object, bool, int, int]]:
    """(rank, waits, arrival, id); the stored rank of a waiting job of a settled policy is current."""

    def warmth(job: Job) -> tuple[object, bool, int, int]:
        if ranking.settled and not job.running and job.queue is not None and job.entry is not None:
            return job.entry[0], True, job.arrival, job.id
        return ranking.entry_of(job)[0], not job.running, job.arrival, job.id

    return warmth


def _last_served(job: Job) -> tuple[int, int, int]:
    return job.last_served, job.arrival, job.id
