"""check_router: does a router keep the contract? The messages tell its author what to change.

Small scripted runs, with old views, weights, two models, replicas that are lost, drained and come, and requests that
fail. Each is played once with every call watched, then twice by fresh objects as it is; all must choose alike. Then one
long run, for the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from fastserve.routers.conformance.reach import attributes, entries, parts
from fastserve.routers.conformance.scripts import Choice, Run, Script, write
from fastserve.routers.router import MUST_ROUTE, Router
from fastserve.routers.spec import PROVIDED
from fastserve.routers.view import ReplicaView
from fastserve.sched.conformance.errors import ConformanceError, raised
from fastserve.sched.conformance.purity import Purity
from fastserve.sched.job import Job

LONG = 100_000
"""Requests of the run for the memory."""

LOOK = 16
"""Requests between two looks for views that are kept."""

USE_NOW = "sent(), ended() and their like are told `now`, job.arrival and view.age are in the same nanoseconds"
SEED_OWN = "take one of its own in begin(): self.random = random.Random(facts.seed)"
REPEAT = (
    "Its choices may depend on what it was told and on facts.seed only: keep nothing in class attributes or globals, "
    "iterate over no sets, and use no hash() of a text"
)
KEPT = "it keeps a view and reads it later; note the numbers that it needs, for the body changes its views"
PURE = "explain() must not change anything"

__all__ = ["ConformanceError", "Report", "check_router"]


@dataclass
class Report:
    """What was played. entries: in all its containers at the end of the long run."""

    router: str
    scripts: list[str] = field(default_factory=list)
    choices: int = 0
    requests: int = 0
    entries: int = 0

    def __str__(self) -> str:
        played = f"{len(self.scripts)} scripts, {self.choices:,} choices"
        return (
            f"{self.router} keeps the contract: {played}; after {self.requests:,} requests it remembers "
            f"{self.entries:,} entries"
        )


def check_router(
    make: Callable[[], Router], *, seeds: Iterable[int] = (0, 1), quick: bool = False, long: int = LONG
) -> Report:
    """Plays scripted runs with fresh routers from make(), a class or a function without arguments.

    seeds: of the scripts. quick: the first seed only, and a long run of a tenth. long: requests of that. Raises
    ConformanceError at the first breach of the contract.
    """
    seeds = list(seeds)[:1] if quick else list(seeds)
    if not seeds:
        raise ValueError("check_router() needs at least one seed")
    report = Report(_first_look(make))
    for seed in seeds:
        for script in write(seed):
            _check(make, script, report)
    _check_memory(make, max(1000, long // 10 if quick else long), report)
    return report


def _first_look(make: Callable[[], Router]) -> str:
    """What can be seen without a run. Returns the name of the router."""
    name = getattr(make, "__name__", "make")
    ears = Purity(USE_NOW, SEED_OWN)
    try:
        router: object = ears.listen(make)
    except TypeError as error:
        raise ConformanceError(
            "make",
            f"{name}() cannot be called without arguments ({error}); give every setting a default, or pass "
            f"check_router(lambda: {name}(...))",
        ) from error
    except (Exception, SystemExit) as error:
        raise ConformanceError("make", f"{name}() raised {raised(error)}") from error
    name = type(router).__name__
    if ears.heard is not None:
        raise ConformanceError("forbidden", f"{name}.__init__() {ears.heard}")
    if not isinstance(router, Router):
        raise ConformanceError("make", f"make() returned {router!r}, which is no fastserve.Router; subclass it")
    if make() is router:
        raise ConformanceError(
            "make", f"make() returned the same {name} twice; one object serves one run, make a fresh one"
        )
    if type(router).route is Router.route:
        raise ConformanceError("route", f"{name} {MUST_ROUTE}")
    needs: object = router.needs
    known = " and ".join(f'"{need}"' for need in sorted(PROVIDED))
    if not isinstance(needs, frozenset) or not needs <= PROVIDED:
        raise ConformanceError(
            "needs", f"{name}.needs is {needs!r}; write needs = frozenset({{...}}) of {known}, or leave it out"
        )
    return name


def _check(make: Callable[[], Router], script: Script, report: Report) -> None:
    watched = _play(_Watched(make(), script), report.router)
    plain, again = (_play(_Told(make(), script), report.router) for _ in range(2))
    _agree("repeat", plain, again, "the same run twice", REPEAT, report.router, script)
    if watched != plain:
        silent = _play(_Watched(make(), script, explain=False), report.router)
        if silent == plain:
            _agree("pure", plain, watched, "a run in which it explains each choice", PURE, report.router, script)
        _agree("keeps", plain, silent, "a run in which views change after it was asked", KEPT, report.router, script)
    report.scripts.append(f"{script.name}, seed {script.seed}")
    report.choices += len(plain)


def _agree(
    check: str, want: list[Choice], got: list[Choice], what: str, advice: str, name: str, script: Script
) -> None:
    if want == got:
        return
    pairs = zip(want, got, strict=False)
    told = next(
        (f"job {a.job} goes to {a.replica}, or to {b.replica}" for a, b in pairs if a != b), "one run is longer"
    )
    raise ConformanceError(check, f"{name} chooses differently in {what}: {told}. {advice} [script {script.name}]")


def _play(run: Run, name: str) -> list[Choice]:
    try:
        return run.play()
    except ConformanceError as error:
        raise ConformanceError(error.check, f"{name}{error} [script {run.script.name}]") from error.__cause__


def _check_memory(make: Callable[[], Router], requests: int, report: Report) -> None:
    """A bound that is reached is no growth: half of the run may fill it."""
    run = _Long(make(), Script("long", jobs=requests))
    half = 0
    for number, _ in enumerate(run.steps()):
        if number == requests // 2:
            half = entries(run.router)
    report.requests, report.entries = requests, entries(run.router)
    if report.entries > 1.5 * half and 4 * report.entries > requests:
        grows = max(attributes(run.router).items(), key=lambda item: entries(item[1]))[0]
        raise ConformanceError(
            "memory",
            f"{report.router} remembers {report.entries:,} entries after {requests:,} requests, of which all have "
            f"ended, and {half:,} after half of them, most in {grows}; forget in ended() and failed(), or bound it",
        )


class _Told(Run):
    """Says which method failed, and what to change."""

    def ask(self, job: Job, views: list[ReplicaView]) -> int:
        return self.checked(self.heard("route", job, views), views)

    def tell(self, method: str, *args: Any) -> None:
        self.heard(method, *args)

    def heard(self, method: str, *args: Any) -> Any:
        try:
            return self.call(method, *args)
        except ConformanceError:
            raise
        except (Exception, SystemExit) as error:
            raise ConformanceError("exception", f".{method}() raised {self.explained(error)}") from error

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self.router, method)(*args)

    def explained(self, error: BaseException) -> str:
        text, needs = raised(error), self.router.needs
        if isinstance(error, TypeError) and "NoneType" in str(error):
            text += "; slots, free_tokens and pool_tokens are None where a replica does not tell them"
            if "guess" not in needs:
                text += ', and job.guess unless the router says needs = frozenset({"guess"})'
        elif isinstance(error, AttributeError) and "facts" in str(error):
            text += "; whoever overrides begin() calls super().begin(facts)"
        elif isinstance(error, AttributeError) and ("'Job' object" in str(error) or "'ReplicaView'" in str(error)):
            text += "; jobs and views have no other fields: keep what the router knows in its own attributes"
        elif isinstance(error, KeyError | IndexError):
            text += (
                "; replicas are lost and come while the run goes on, also with new numbers, and a job that is sent "
                "again is another object: use .get(view.replica), and key by job.id"
            )
        return text

    def checked(self, index: object, views: list[ReplicaView]) -> int:
        if type(index) is int and 0 <= index < len(views):
            return index
        text = f".route() returned {index!r} for {len(views)} views; return an index into views"
        if index in [view.replica for view in views]:
            text += ", and not view.replica: the two differ when a replica is missing"
        elif isinstance(index, ReplicaView):
            text += ", and not the view"
        raise ConformanceError("index", text)


class _Watched(_Told):
    """Every call is listened to, jobs and views are compared before and after, and views are spoilt when they have been
    read.
    """

    def __init__(self, router: Router, script: Script, explain: bool = True) -> None:
        super().__init__(router, script)
        self.explain = explain
        self.ears = Purity(USE_NOW, SEED_OWN)

    def ask(self, job: Job, views: list[ReplicaView]) -> int:
        before, seen = self.state(job), list(map(copy, views))
        offered = list(views)
        index = super().ask(job, offered)
        if self.state(job) != before:
            raise ConformanceError("writes", ".route() changes the job; it is the body's: keep notes of its own")
        if offered != seen:
            raise ConformanceError("writes", ".route() changes the views; they are the body's: copy what it works on")
        if self.explain:
            told = self.heard("explain", job)
            if not isinstance(told, str):
                raise ConformanceError("explain", f".explain() returned {told!r}; return a text, or do not define it")
        for view in views:
            view.outstanding = view.queued_tokens = view.running = 10**6 + self.sent
            view.free_tokens, view.weight, view.name = None, 1e-3, "spoilt"
        if self.sent % LOOK == 0:
            for name, value in attributes(self.router).items():
                if any(isinstance(part, ReplicaView) for part in parts(value)):
                    raise ConformanceError("keeps", f".{name} holds a view after route(); {KEPT}")
        return index

    def call(self, method: str, *args: Any) -> Any:
        found = self.ears.listen(getattr(self.router, method), *args)
        if self.ears.heard is not None:
            raise ConformanceError("forbidden", f".{method}() {self.ears.heard}")
        return found

    def state(self, job: Job) -> list[Any]:
        return [list(value) if isinstance(value, list) else value for value in (getattr(job, name) for name in JOB)]


JOB = ("id", "arrival", "prompt", "limit", "client", "program", "priority", "guess", "ids", "running", "finish")
"""What of a job may not change while a router is asked."""


class _Long(_Told):
    """Each request is of a program and a client of its own, and begins like no other."""

    def _job(self, number: int) -> Job:
        job = super()._job(number)
        job.program, job.client = f"program-{number}", f"client-{number}"
        job.ids = [(number << 20) + unit for unit in range(len(job.ids))]
        return job
