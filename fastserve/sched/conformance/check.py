"""check_policy: does a policy keep the contract? The messages tell its author what to change.

Small scripted runs, with ties, queues, preemption, short memory and cancels. Each is played once with every call into
the policy watched, then by fresh objects again: twice as it is, in macro-steps, with every rank re-read. All must
decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastserve.sched.conformance.alarm_book import AlarmsHeard
from fastserve.sched.conformance.errors import ConformanceError, explained
from fastserve.sched.conformance.instrument import Watched, watch
from fastserve.sched.conformance.purity import Purity
from fastserve.sched.conformance.scripts import (
    LONGEST_OUTPUT,
    SHAPES,
    TICKS,
    Event,
    HeldError,
    Run,
    Script,
    StuckError,
    write,
)  # fmt: skip
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.sched.policy import MUST_RANK, Policy

KNOWN_NEEDS = frozenset({"guess"})
STORM = 16  # alarms in a row, each set for almost nothing
BOUND = ("now", "jobs", "machine")

REPEAT = (
    "Its answers may depend on the jobs, self.now and its own state only: seed randomness in __init__, keep nothing in "
    "class attributes or globals, iterate over no sets"
)
PURE = "rank(), waiting(), coldest() and explain() must not change anything"
PROMISE = "settled = True promises that ranks change with self.rerank(job) only; keep it, or leave settled = False"

__all__ = ["ConformanceError", "Report", "check_policy"]


@dataclass
class Report:
    """What was played. warnings: what costs time or memory but breaks nothing."""

    policy: str
    scripts: list[str] = field(default_factory=list)
    decisions: int = 0
    alarms: int = 0
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        played = f"{len(self.scripts)} scripts, {self.decisions} decisions, {self.alarms} alarms"
        text = f"{self.policy} keeps the contract: {played}"
        return "\n".join([text, *(f"warning: {warning}" for warning in self.warnings)])


def check_policy(make: Callable[[], Policy], *, seeds: Iterable[int] = (0, 1), quick: bool = False) -> Report:
    """Plays scripted runs with fresh policies from make(), a class or a function without arguments.

    seeds: of the workloads. quick: the first seed only. Raises ConformanceError at the first breach of the contract.
    """
    seeds = list(seeds)[:1] if quick else list(seeds)
    if not seeds:
        raise ValueError("check_policy() needs at least one seed")
    report = Report(_first_look(make))
    heard = AlarmsHeard()
    scripts = [write(shape, seed) for seed in seeds for shape in SHAPES]
    _play(make, scripts, report, heard)
    if type(make()).alarm is not Policy.alarm:
        for tick, longer in heard.scales(LONGEST_OUTPUT):
            _play(make, [write(shape, seeds[0], tick, longer) for shape in SHAPES], report, heard)
        report.warnings += heard.warnings(report.policy)
    return report


def _play(make: Callable[[], Policy], scripts: Iterable[Script], report: Report, heard: AlarmsHeard) -> None:
    for script in scripts:
        _Case(make, script, report, heard).check()
        report.scripts.append(script.name)


def _first_look(make: Callable[[], Policy]) -> str:
    """What can be seen without a run. Returns the name of the policy."""
    policy: object = _made(make)
    kind = type(policy)
    name = kind.__name__
    if not isinstance(policy, Policy):
        raise ConformanceError("make", f"make() returned {policy!r}, which is no fastserve.Policy; subclass it")
    if make() is policy:
        raise ConformanceError(
            "make", f"make() returned the same {name} twice; one object serves one run, make a fresh one"
        )
    if type(policy).rank is Policy.rank:
        raise ConformanceError("rank", f"{name} {MUST_RANK}")
    settled: object = policy.settled
    if not isinstance(settled, bool):
        raise ConformanceError("settled", f"{name}.settled is {settled!r}; write settled = True or leave it out")
    needs: object = policy.needs
    if not isinstance(needs, frozenset):
        raise ConformanceError(
            "needs", f'{name}.needs is {needs!r}; write needs = frozenset({{"guess"}}) or leave it out'
        )
    if not needs <= KNOWN_NEEDS:
        unknown = ", ".join(sorted(map(repr, needs - KNOWN_NEEDS)))
        raise ConformanceError("needs", f'{name}.needs names {unknown}; the only fact that can be asked for is "guess"')
    own = [
        key
        for key in BOUND
        if key in getattr(policy, "__dict__", {}) or getattr(kind, key, None) is not getattr(Policy, key, None)
    ]
    if own:
        raise ConformanceError(
            "bound", f"{name} sets {own[0]!r} itself, which the Scheduler fills; name your attribute otherwise"
        )
    return name


def _made(make: Callable[[], Policy]) -> Policy:
    """A first policy, whose constructor is listened to."""
    name = getattr(make, "__name__", "make")
    ears = Purity()
    try:
        policy: Policy = ears.listen(make)
    except TypeError as error:
        raise ConformanceError(
            "make",
            f"{name}() cannot be called without arguments ({error}); give every setting a default, or pass "
            f"check_policy(lambda: {name}(...))",
        ) from error
    except (Exception, SystemExit) as error:
        raise ConformanceError("make", f"{name}() raised {explained(error, KNOWN_NEEDS)}") from error
    if ears.heard is not None:
        raise ConformanceError("forbidden", f"{name}.__init__() {ears.heard}")
    return policy


class _Case:
    """One script, and the runs of it that must agree."""

    def __init__(self, make: Callable[[], Policy], script: Script, report: Report, heard: AlarmsHeard) -> None:
        self.make = make
        self.script = script
        self.report = report
        self.heard = heard
        self.name = report.policy

    def check(self) -> None:
        watched = self._watched()
        plain = self._play()
        self._agree("repeat", plain, self._play(), "the same run twice", REPEAT)
        if watched != plain:  # the cause is the asking only if asking as often again gives the same
            self._agree("repeat", watched, self._watched(), "the same run twice", REPEAT)
            self._agree("pure", plain, watched, "a run in which it was asked more often", PURE)
        if not self.make().settled:
            return
        self._agree("settled", self._play(reread=True), plain, "a run in which every rank is re-read", PROMISE)
        self._agree("macro", plain, self._play(macro=True), "many iterations taken at once", PROMISE)

    def _play(self, *, macro: bool = False, reread: bool = False) -> list[Event]:
        policy = self._fresh()
        run = Run(policy, self.script, macro=macro)
        if reread:
            run.scheduler.ranking.settled = False
        try:
            return run.play()
        except PolicyError as error:
            what = explained(error.__cause__, policy.needs) if error.__cause__ is not None else str(error)
            of = f" of job {error.job.id}" if error.job is not None else ""
            text = f"{self.name}.{error.method}(){of} failed in a second run: {what}"
            raise self._failed("exception", text) from error
        except StuckError as error:
            raise self._stuck(error) from error
        except HeldError as error:
            raise self._failed("held", f"{self.name} {error}") from error
        except (Exception, SystemExit) as error:
            raise self._tripped(error, policy) from error

    def _watched(self) -> list[Event]:
        policy = self._fresh()
        watched = watch(policy)
        run = Run(watched, self.script)
        watched.bind(run.scheduler)
        try:
            for plan in run.boundaries():
                watched.look()
                self._same_plan(watched, plan, run.scheduler.plan(run.now))
        except StuckError as error:
            raise self._stuck(error) from error
        except HeldError as error:
            raise self._failed("held", f"{self.name} {error}") from error
        except (Exception, SystemExit) as error:
            broken = _root(error) or self._at_fault(watched)
            if broken is None and isinstance(error, PolicyError):
                raise self._failed(error.method, str(error)) from error
            if broken is None:
                raise self._tripped(error, policy) from error
            raise self._failed(broken.check, str(broken)) from broken.__cause__
        self.report.decisions += len(run.events)
        self.report.alarms += watched.rung
        self.heard.add(self.script.tick, watched.alarms)
        self._warn(watched, run.jobs)
        return run.events

    def _at_fault(self, watched: Watched) -> ConformanceError | None:
        """The Scheduler itself has tripped: is it for what this policy said, such as ranks that cannot be compared?"""
        try:
            watched.look()
        except ConformanceError as error:
            return error
        return None

    def _fresh(self) -> Policy:
        policy = self.make()
        if policy._scheduler is not None:
            raise ConformanceError(
                "make", f"make() returned a {self.name} that has served a run; make a fresh one for each"
            )
        return policy

    # -- verdicts --------------------------------------------------------------------------------------------------

    def _same_plan(self, watched: Watched, first: Plan | None, second: Plan | None) -> None:
        if _data(first) != _data(second):
            watched.blame(
                "pure", "rank", None,
                f"and its like led to {first!r} and then to {second!r} at the same instant; {PURE}",
            )  # fmt: skip

    def _agree(self, check: str, want: list[Event], got: list[Event], what: str, advice: str) -> None:
        if want == got:
            return
        at = next((i for i, (a, b) in enumerate(zip(want, got, strict=False)) if a != b), min(len(want), len(got)))
        told = [_told(events[at]) if at < len(events) else "nothing more happens" for events in (want, got)]
        raise self._failed(check, f"{self.name} decides differently in {what}: {told[0]}, or {told[1]}. {advice}")

    def _stuck(self, error: StuckError) -> ConformanceError:
        return self._failed(
            "end",
            f"{self.name} does not come to an end though arrivals have stopped: {error}; waiting() must name every job",
        )

    def _tripped(self, error: BaseException, policy: Policy) -> ConformanceError:
        """The Scheduler itself has failed, and nothing that the policy says by itself shows why."""
        return self._failed(
            "exception", f"the Scheduler cannot work with what {self.name} says: {explained(error, policy.needs)}"
        )

    def _failed(self, check: str, text: str) -> ConformanceError:
        return ConformanceError(check, f"{text} [script {self.script.name}]")

    def _warn(self, watched: Watched, jobs: list[Job]) -> None:
        found = [_leak(self.name, key, value, jobs) for key, value in _own_state(watched.inner).items()]
        for why, streak in watched.storm.items():
            if streak >= STORM and self.script.tick in TICKS:
                found.append(
                    f"{self.name}.alarm() sets its {why!r} alarm again for a fraction of an iteration, {streak} times "
                    f"in a row for one job, so no plan outlasts one; wake it after self.machine.decode_ns or more"
                )
        known = {warning.partition(",")[0] for warning in self.report.warnings}
        self.report.warnings += [warning for warning in found if warning and warning.partition(",")[0] not in known]


def _told(event: Event) -> str:
    return f"job {event.id} {event.what} at {event.at / 1e9:.3f} s"


def _data(plan: Plan | None) -> list[Any]:
    """The fields of a plan as values that can be compared."""
    if plan is None:
        return []
    copies = [
        [(copy.job.id, copy.blocks, copy.out) for copy in found]
        for found in (plan.load, plan.clear, plan.park, plan.prefetch)
    ]
    jobs = [[job.id for job in found] for found in (plan.joined, plan.left, plan.drop)]
    chunks = [(job.id, tokens) for job, tokens in plan.prefill]
    shared = dict(plan.found), [list(ids[start:end]) for ids, start, end in plan.evict]
    return [
        *jobs,
        *copies,
        chunks,
        *shared,
        plan.batch,
        plan.context,
        plan.iterations,
        plan.service,
        plan.until,
        plan.hold,
    ]


def _root(error: BaseException | None) -> ConformanceError | None:
    """The Scheduler wraps what comes out of a policy: the ConformanceError inside."""
    while error is not None and not isinstance(error, ConformanceError):
        error = error.__cause__
    return error


def _own_state(policy: Policy) -> dict[str, Any]:
    bound = {*BOUND, "_scheduler"}
    return {key: value for key, value in getattr(policy, "__dict__", {}).items() if key not in bound}


def _leak(name: str, key: str, value: object, jobs: list[Job]) -> str:
    """A warning if this attribute still refers to many of the jobs, all of which have departed."""
    kept = _jobs_in(value, set())
    ids = value if isinstance(value, dict | list | set) else ()
    if 4 * len(kept) < len(jobs) and not {job.id for job in jobs} <= {id for id in ids if isinstance(id, int)}:
        return ""
    share = f"{len(kept) or len(jobs)} of {len(jobs)}"
    return f"{name}.{key} still refers to departed jobs, {share} at the end; remove them in depart()"


def _jobs_in(value: object, seen: set[int]) -> set[Job]:
    """The jobs in nested containers and in the attributes of plain objects."""
    if isinstance(value, Job):
        return {value}
    if id(value) in seen:
        return set()
    seen.add(id(value))
    inside: Iterable[object] = ()
    if isinstance(value, dict):
        inside = [*value, *value.values()]
    elif isinstance(value, Iterable) and hasattr(value, "__len__") and not isinstance(value, str | bytes):
        inside = list(value)
    elif not isinstance(value, type) and not callable(value):
        inside = list(getattr(value, "__dict__", {}).values())
    return set().union(*[_jobs_in(item, seen) for item in inside])
