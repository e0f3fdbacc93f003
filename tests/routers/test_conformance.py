"""check_router lets every right router pass, and tells the author of a broken one what to change."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import pytest

from fastserve import Job, ReplicaView, Router, check_router
from fastserve.__main__ import main as cli
from fastserve.routers import ROUTERS, RouterFacts, make
from fastserve.sched.conformance.errors import ConformanceError

SHORT = 4000
"""Requests of the long run: enough for what grows without a bound."""

VARIANTS: dict[str, Callable[[], Router]] = {
    **ROUTERS,
    "power-of-two by old numbers": lambda: make("power-of-two", {"load": "jobs"}),
    "least tokens as told": lambda: make("least-tokens", {"add_sent": False}),
    "freeness as told": lambda: make("freeness", {"add_sent": False}),
    "session with a bound": lambda: make("session", {"bound": 1.25}),
    "prefix by e2": lambda: make("prefix", {"rule": "e2"}),
    "prefix that remembers little": lambda: make("prefix", {"most": 50}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_right_routers_pass(name: str) -> None:
    report = check_router(VARIANTS[name], quick=True)
    assert report.requests == 10_000
    assert report.choices > 1500


class First(Router):
    """Right. The broken ones below differ from it in one thing each."""

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        return 0


SAME = First()


def broken(route: Callable[[Any, Job, Sequence[ReplicaView]], Any], **more: Any) -> type[Router]:
    return type("Broken", (First,), {"route": route, **more})


def told(kind: Callable[[], Any], check: str, long: int = SHORT) -> str:
    with pytest.raises(ConformanceError) as error:
        check_router(kind, long=long)
    assert error.value.check == check, error.value
    return str(error.value)


def test_first_is_right() -> None:
    assert str(check_router(First, long=SHORT)).startswith("First keeps the contract: 16 scripts, 3,")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda self, job, views: views[-1].replica, "and not view.replica: the two differ when a replica is missing"),
        (lambda self, job, views: views[0], "return an index into views, and not the view"),
        (lambda self, job, views: -1, "Broken.route() returned -1 for 4 views; return an index into views"),
        (lambda self, job, views: None, "returned None for"),
        (lambda self, job, views: True, "returned True for"),
        (lambda self, job, views: 0.0, "returned 0.0 for"),
    ],
)
def test_what_is_no_index(answer: Any, says: str) -> None:
    assert says in told(broken(answer), "index")


def test_a_shared_generator_and_a_clock() -> None:
    def by_lot(self: Any, job: Job, views: Sequence[ReplicaView]) -> int:
        return random.randrange(len(views))

    def by_clock(self: Any, job: Job, views: Sequence[ReplicaView]) -> int:
        return int(time.monotonic() * 1000) % len(views)

    assert "take one of its own in begin(): self.random = random.Random(facts.seed)" in told(
        broken(by_lot), "forbidden"
    )
    assert "reads the clock time.monotonic" in told(broken(by_clock), "forbidden")
    assert "are told `now`" in told(broken(by_clock), "forbidden")


def test_an_unseeded_generator_of_its_own() -> None:
    class Unseeded(First):
        def begin(self, facts: RouterFacts) -> None:
            super().begin(facts)
            self.random = random.Random()

        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            return self.random.randrange(len(views))

    assert "Unseeded chooses differently in the same run twice: job " in told(Unseeded, "repeat")


def test_state_that_is_shared_between_objects() -> None:
    class Shared(First):
        turn: ClassVar[list[int]] = [0]

        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            self.turn[0] += 1
            return self.turn[0] % len(views)

    assert "keep nothing in class attributes" in told(Shared, "repeat")


def test_writing() -> None:
    def to_view(self: Any, job: Job, views: Sequence[ReplicaView]) -> int:
        views[0].outstanding += 1
        return 0

    def to_list(self: Any, job: Job, views: Any) -> int:
        views.sort(key=lambda view: view.outstanding)
        return 0

    def to_job(self: Any, job: Job, views: Sequence[ReplicaView]) -> int:
        job.priority = 3
        return 0

    assert "Broken.route() changes the views" in told(broken(to_view), "writes")
    assert "copy what it works on" in told(broken(to_list), "writes")
    assert "Broken.route() changes the job" in told(broken(to_job), "writes")


def test_views_that_are_kept() -> None:
    class Keeper(First):
        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            self.last = list(views)
            return 0

    class Reader(Keeper):
        """Chooses by what it has kept, and hides it in a closure."""

        def begin(self, facts: RouterFacts) -> None:
            self.past: Any = list

        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            loads = [view.running for view in self.past()]
            self.past = lambda: views
            return loads.index(max(loads)) if len(loads) == len(views) else 0

    assert "Keeper.last holds a view after route()" in told(Keeper, "keeps")
    assert "a run in which views change after it was asked" in told(Reader, "keeps")


def test_an_explanation_that_changes_something() -> None:
    class Talks(First):
        turn = 0

        def explain(self, job: Job) -> str:
            self.turn += 1
            return ""

        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            return self.turn % len(views)

    assert "explain() must not change anything" in told(Talks, "pure")
    assert "Broken.explain() returned None" in told(broken(First.route, explain=lambda self, job: None), "explain")


def test_replicas_that_are_lost_and_come() -> None:
    class Fixed(First):
        """Knows the replicas of the beginning only."""

        def begin(self, facts: RouterFacts) -> None:
            super().begin(facts)
            self.load = [0] * len(facts.replicas)

        def sent(self, job: Job, replica: int, now: int) -> None:
            self.load[replica] += 1

        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            return max(range(len(views)), key=lambda index: views[index].replica)

    class Strict(First):
        """Believes that all that was sent ends there."""

        def begin(self, facts: RouterFacts) -> None:
            super().begin(facts)
            self.here: set[int] = set()

        def sent(self, job: Job, replica: int, now: int) -> None:
            assert job.id not in self.here, "sent twice"
            self.here.add(job.id)

        def ended(self, job: Job, replica: int, now: int, tokens: int) -> None:
            self.here.remove(job.id)

    class ByObject(First):
        """Keeps jobs by what they are and not by their id."""

        def begin(self, facts: RouterFacts) -> None:
            super().begin(facts)
            self.first: dict[int, Job] = {}

        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            assert self.first.setdefault(job.id, job) is job
            return 0

    assert "ByObject.route() raised AssertionError" in told(ByObject, "exception")
    assert "replicas are lost and come while the run goes on" in told(Fixed, "exception")
    assert "Strict.sent() raised AssertionError: sent twice" in told(Strict, "exception")


def test_facts_that_are_not_there() -> None:
    def by_guess(self: Any, job: Job, views: Sequence[ReplicaView]) -> int:
        return 0 if job.guess > 100 else len(views) - 1  # type: ignore[operator]

    def by_room(self: Any, job: Job, views: Sequence[ReplicaView]) -> int:
        return 0 if views[0].free_tokens > 100 else len(views) - 1  # type: ignore[operator]

    def by_field(self: Any, job: Job, views: Sequence[ReplicaView]) -> int:
        return int(views[0].load)  # type: ignore[attr-defined]

    assert 'needs = frozenset({"guess"})' in told(broken(by_guess), "exception")
    assert "free_tokens and pool_tokens are None where" in told(broken(by_room), "exception")
    assert "jobs and views have no other fields" in told(broken(by_field), "exception")

    class NoFacts(First):
        def begin(self, facts: RouterFacts) -> None:
            pass

        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            return self.facts.seed * 0

    assert "calls super().begin(facts)" in told(NoFacts, "exception")


def test_memory_that_grows() -> None:
    class Remembers(First):
        def begin(self, facts: RouterFacts) -> None:
            super().begin(facts)
            self.went: dict[str, int] = {}

        def sent(self, job: Job, replica: int, now: int) -> None:
            self.went[job.program] = replica

    text = told(Remembers, "memory")
    assert "after 4,000 requests, of which all have ended" in text
    assert "most in went; forget in ended() and failed(), or bound it" in text

    class Forgets(Remembers):
        def ended(self, job: Job, replica: int, now: int, tokens: int) -> None:
            self.went.pop(job.program, None)

    assert check_router(Forgets, quick=True).entries < 100


@pytest.mark.parametrize(
    ("made", "check", "says"),
    [
        (lambda: type("Bare", (Router,), {})(), "route", "Bare must define route(self, job, views)"),
        (lambda: object(), "make", "which is no fastserve.Router; subclass it"),
        (lambda: SAME, "make", "returned the same First twice"),
        (lambda: broken(First.route, needs={"guess"})(), "needs", 'of "guess" and "prefixes"'),
        (lambda: broken(First.route, needs=frozenset({"future"}))(), "needs", "needs is frozenset({'future'})"),
    ],
)
def test_what_is_seen_before_a_run(made: Callable[[], Any], check: str, says: str) -> None:
    assert says in told(made, check)


def test_a_constructor_that_wants_arguments_or_raises() -> None:
    class Wants(First):
        def __init__(self, size: int) -> None:
            self.size = size

    class Raises(First):
        def __init__(self) -> None:
            raise KeyError("x")

    assert "Wants() cannot be called without arguments" in told(cast("Any", Wants), "make")
    assert "Raises() raised KeyError: 'x'" in told(Raises, "make")
    assert check_router(lambda: Wants(3), quick=True, long=SHORT).choices


def test_seeds() -> None:
    assert len(check_router(First, seeds=range(3), long=SHORT).scripts) == 24
    with pytest.raises(ValueError, match="at least one seed"):
        check_router(First, seeds=[])


def test_a_router_that_is_checked_as_a_policy_is_told_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["check", "least-tokens"]) == cli(["check", f"{__name__}:First"]) == 2
    told = capsys.readouterr().err
    assert "it is a router: fastserve check --router least-tokens\n" in told
    assert f"--router {__name__}:First\n" in told
    assert cli(["check", "no-such"]) == 2
    assert "it is a router" not in capsys.readouterr().err
