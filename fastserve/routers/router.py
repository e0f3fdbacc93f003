"""Router: which replica gets this request? The one page to read before writing one.

A Router is to replicas what a Policy is to jobs: it says where a request goes, and everything else (connections,
health, retries, time) belongs to the body that asks: the simulator's cluster or the gateway. Three lines are a router:

    class FewestWaiting(Router):
        def route(self, job, views):
            return min(range(len(views)), key=lambda index: views[index].waiting)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from fastserve.routers.errors import RouterError as RouterError
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job

MUST_ROUTE: Final = "must define route(self, job, views): an index into views"
"""Said of a router that does not."""


class Replica(NamedTuple):
    """A replica as it is when a run begins, or when it comes."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """What stands before the first request."""

    replicas: tuple[Replica, ...] = ()  # by their numbers, from 0; more may come
    unit_tokens: int = 0  # prompt tokens that each of job.ids stands for; 0: jobs have none
    seed: int = 0  # of all randomness: random.Random(facts.seed)


class Router:
    """Override route(); everything else has a default.

    The same calls give the same choices: a router reads no clock, does no IO and draws from random.Random(facts.seed)
    only. It keeps its own state, reads jobs and views and writes neither. One object serves one run. Its constructor's
    keywords are its settings; there is no super().__init__() to call.

    Times are in ns, of the body's clock, and never fall. A job's calls come in this order: route, then sent; then
    ended, or failed and perhaps route again, with the same job.id and perhaps another object. What a lost replica still
    had has failed before lost() is called.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the body must put into jobs for this router: "guess" (job.guess: a predictor's, else the running mean of
    answers so far) and "prefixes" (job.ids). The rest may be left out: hashing a long prompt costs time.
    """

    facts: RouterFacts  # filled by begin()

    def begin(self, facts: RouterFacts) -> None:
        """Once, before anything else. Whoever overrides it calls super().begin(facts)."""
        self.facts = facts

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        """An index into `views`, which is never empty, in the order of the replicas' numbers: those that may be chosen
        now. A replica is missing that is ill or draining, that does not serve the job's model, or where it has failed.
        """
        raise NotImplementedError(f"{type(self).__name__} {MUST_ROUTE}")

    def sent(self, job: Job, replica: int, now: int) -> None:
        """It went to this replica (view.replica), which need not be the one that route() chose."""

    def ended(self, job: Job, replica: int, now: int, tokens: int) -> None:
        """It got so many output tokens and has ended, or its client has left."""

    def failed(self, job: Job, replica: int, now: int) -> None:
        """The replica did not serve it to the end. It may be routed again."""

    def lost(self, replica: int, now: int) -> None:
        """The replica died or restarted: what it had cached is gone."""

    def came(self, replica: int, name: str, weight: float, now: int) -> None:
        """A replica joined while the run goes on, with a new number, or again under its own."""

    def explain(self, job: Job) -> str:
        """Why the last choice, in one short line such as "3,072 of 4,000 tokens cached"; job: that of the choice."""
        return ""


def chosen(router: Router, job: Job, views: Sequence[ReplicaView]) -> int:
    """The index that route() gives, checked. Raises RouterError, also for what the router raises."""
    try:
        index = router.route(job, views)
    except RouterError:
        raise
    except Exception as error:
        raise RouterError(router, "route", job, error) from error
    if type(index) is not int or not 0 <= index < len(views):
        raise RouterError(router, "route", job, f"must return an index from 0 to {len(views) - 1}, not {index!r}")
    return index
