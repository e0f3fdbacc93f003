"""Watched: a policy between the Scheduler and the one that is checked. It looks at every question and every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from operator import attrgetter
from typing import Any, NoReturn

from fastserve.sched.conformance.alarm_book import AlarmBook
from fastserve.sched.conformance.errors import ConformanceError, explained
from fastserve.sched.conformance.purity import Purity
from fastserve.sched.job import NEVER, NOWHERE, Job
from fastserve.sched.policy import Policy
from fastserve.sched.ranking import NAME_ALL, NAME_JOBS
from fastserve.sched.scheduler import Scheduler

READ_ONLY = (
    "id", "arrival", "prompt", "limit", "client", "program", "priority", "deadline", "guess", "tool", "final", "calls",
    "prefilled", "running", "place", "preemptions", "finish", "tokens_base", "clock_base", "last",
)  # fmt: skip
"""What of a Job may not change while a policy is asked; rerank() and wake() change none of it."""

PURE = frozenset({"rank", "waiting", "coldest", "explain"})
"""What is asked of a policy while a plan is made or a page is drawn: it changes nothing."""

_state = attrgetter(*READ_ONLY)


class Watched(Policy):
    """Made by watch(); inner is the policy that is checked."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = type(inner).__name__
        self.ears = Purity()
        self.known: dict[Job, tuple[Any, bool]] = {}  # of a settled policy: rank and running when last looked at
        self.dirty: dict[Job, None] = {}
        self.current = False  # known holds what can be read now: nothing has been run or told since
        self.looks = 0
        self.rung = 0  # alarms
        self.alarms = AlarmBook()
        self.streak: dict[tuple[Job, str], int] = {}  # alarms in a row that were set again for almost nothing
        self.storm: dict[str, int] = {}  # the longest of these, by kind

    def bind(self, scheduler: Scheduler) -> None:
        """The Scheduler has bound itself to this; now the inner policy is bound too."""
        self.inner._scheduler = self.scheduler = scheduler
        self.dirty = scheduler.ranking.dirty  # whose rank must be read anew, as the inner policy has said
        self.inner.machine = self.machine
        self.inner.jobs = self.jobs

    # -- what the Scheduler asks -----------------------------------------------------------------------------------

    def rank(self, job: Job) -> Any:
        first = self._ask("rank", job, [job], job)
        if first is None:
            self.blame(
                "rank", "rank", job, "returned None; return a value that can be compared, the smaller goes first"
            )
        if _has_nan(first):
            self.blame("rank", "rank", job, f"returned {first!r}; NaN has no place in an order, return a number")
        try:
            below_itself = bool(first < first)
        except (Exception, SystemExit) as error:
            self.blame("rank", "rank", job, f"returned {first!r}, which cannot be compared with < ({error}); "
                       f"return a number, a string or a tuple of them")  # fmt: skip
        if below_itself:
            self.blame("rank", "rank", job, f"returned {first!r}, which is smaller than itself; make its __lt__ strict")
        second = self._ask("rank", job, [job], job)
        if first != second:
            self.blame(
                "random", "rank", job,
                f"answered {first!r} and then {second!r} at the same instant; it must depend on the job, self.now and "
                f"the policy's own state only: draw random numbers in arrive() and keep them; rank classes need __eq__",
            )  # fmt: skip
        return first

    def arrive(self, job: Job) -> None:
        self._tell("arrive", job)

    def depart(self, job: Job) -> None:
        self.known.pop(job, None)
        self.alarms.forget(job)
        self._tell("depart", job)

    def alarm(self, job: Job, why: str) -> None:
        self.alarms.rang(job, why)
        self._tell("alarm", job, why)
        self.rung += 1
        again = {"served": job.served_goal - job.served, "waited": job.waited or NEVER}.get(why, NEVER)
        streak = self.streak[job, why] = (
            self.streak.get((job, why), 0) + 1 if again * 16 < self.machine.decode_ns else 0
        )
        self.storm[why] = max(streak, self.storm.get(why, 0))

    def ended(self, program: str) -> None:
        self.settle()
        self._ask("ended", None, self.jobs, program)
        self.alarms.look(self.jobs)
        self.settle("ended")

    def explain(self, job: Job) -> str:
        text: object = self._ask("explain", job, [job], job)
        if not isinstance(text, str):
            self.blame("explain", "explain", job, f"returned {text!r}; return one short line of text")
        return str(text)

    # -- what the check asks at every boundary ---------------------------------------------------------------------

    def look(self) -> None:
        """Between a plan and its run: promises kept, ranks in an order, nobody left out by waiting() or coldest()."""
        self.settle()
        self.current = False
        jobs = list(self.jobs)
        for job in jobs[self.looks % 5 :: 5]:
            self.rank(job)
            self.explain(job)
        self.looks += 1
        ranks = [(job, self._rank(job)) for job in jobs]
        self._order(ranks)
        if type(self.inner).waiting is not Policy.waiting:
            self._compare_waiting(dict(ranks))
        cached = [job for job in jobs if job.place is not NOWHERE]
        if type(self.inner).coldest is not Policy.coldest and len(cached) > 1 and self.looks % 2:
            self._coldest(cached)

    def settle(self, after: str = "", subject: Job | None = None, skip: Job | None = None) -> None:
        """Holds every rank of a settled policy against the last one. after: the callback that has just been made."""
        if not self.settled or (self.current and not after):
            return
        self.inner.now = self.now
        self.current = True
        noticed = self.dirty
        known = self.known
        for job in self.jobs:
            if job is skip:
                continue
            fresh = self._rank(job)
            last = known.get(job)
            if last is not None:
                rank, ran = last
                if not after:
                    self._promised(job, rank, fresh, ran)
                elif fresh != rank and job not in noticed:
                    self.blame(
                        "settled", after, subject,
                        f"changed the rank of job {job.id} from {rank!r} to {fresh!r} without self.rerank(job); "
                        f"call it wherever a rank changes, or leave settled = False",
                    )  # fmt: skip
            known[job] = fresh, job.running

    def _promised(self, job: Job, rank: Any, fresh: Any, ran: bool) -> None:
        """Nothing was told to the policy between these two ranks. ran: did the job run at the first of them?"""
        if not ran and not job.running:
            wrong = "changed while the job was waiting" if fresh != rank else ""
        elif job.running:
            what = "got worse while the job was running" if ran else "got worse when the job joined the batch"
            wrong = what if rank < fresh else ""
        else:
            wrong = "got better when the job left the batch" if fresh < rank else ""
        if wrong:
            self.blame(
                "settled", "rank", job,
                f"{wrong}, from {rank!r} to {fresh!r}, without self.rerank(job): settled = True promises that "
                f"it does not; let arrive() and alarm() note what the rank is made of and call rerank, or leave "
                f"settled = False",
            )  # fmt: skip

    def _rank(self, job: Job) -> Any:
        """Read once, without a look at what is called meanwhile."""
        before = _state(job)
        asked = self._asked_for()
        try:
            rank = self.inner.rank(job)
        except (Exception, SystemExit):
            return self.rank(job)
        self._unasked("rank", job, asked)
        self._unwritten("rank", job, job, before)
        return rank

    def blame(self, check: str, method: str, job: Job | None, what: str) -> NoReturn:
        """Raises ConformanceError."""
        raise ConformanceError(check, f"{self._subject(method, job)} {what}")

    def _subject(self, method: str, job: Job | None) -> str:
        of = f" of job {job.id}" if job is not None else ""
        return f"{self.name}.{method}(){of} at {self.now / 1e9:.3f} s"

    # -- one question ----------------------------------------------------------------------------------------------

    def _ask(self, method: str, subject: Job | None, jobs: Iterable[Job], *args: Any, most: int | None = None) -> Any:
        """Calls the inner method. jobs: whose fields must stay. most: list so many items of what it returns."""
        inner = self.inner
        inner.now = self.now
        before = [(job, _state(job)) for job in jobs]
        asked = self._asked_for() if method in PURE else None
        call: Callable[..., Any] = getattr(inner, method)
        try:
            answer = self.ears.listen(call if most is None else _listed(call, most), *args)
        except (Exception, SystemExit) as error:
            raise ConformanceError(
                "exception", f"{self._subject(method, subject)} raised {explained(error, self.needs)}"
            ) from error
        if self.ears.heard is not None:
            self.blame("forbidden", method, subject, self.ears.heard)
        if asked is not None:
            self._unasked(method, subject, asked)
        for job, state in before:
            self._unwritten(method, subject, job, state)
        if inner.now != self.now or inner.jobs is not self.jobs or inner.machine is not self.machine:
            self.blame(
                "bound", method, subject,
                "has replaced self.now, self.jobs or self.machine, which the Scheduler fills; take another name",
            )  # fmt: skip
        return answer

    def _asked_for(self) -> tuple[list[Job], dict[str, Any]]:
        """Whom it holds back, and what it keeps."""
        sharing = self.scheduler.sharing
        return list(self.scheduler.held), {} if sharing is None else dict(sharing.tree.pins.of)

    def _unasked(self, method: str, subject: Job | None, before: Any) -> None:
        if before != self._asked_for():
            self.blame(
                "pure", method, subject,
                "has called self.hold(), release() or keep(): it must not change anything; call them in arrive(), "
                "depart(), alarm() or ended()",
            )  # fmt: skip

    def _unwritten(self, method: str, subject: Job | None, job: Job, before: tuple[Any, ...]) -> None:
        after = _state(job)
        if after != before:
            name = next(name for name, old, new in zip(READ_ONLY, before, after, strict=True) if old != new)
            self.blame(
                "mutation", method, subject,
                f"has written {name} of job {job.id}; the Scheduler alone writes jobs: keep what the policy knows in a "
                f"dict of its own, keyed by job",
            )  # fmt: skip

    def _tell(self, method: str, job: Job, *args: Any) -> None:
        arriving = job if method == "arrive" else None
        self.settle(skip=arriving)
        self._ask(method, job, [*self.jobs, job], job, *args)
        self.alarms.look(self.jobs)
        self.settle(method, job)

    def _before(self, first: Job, a: Any, second: Job, b: Any) -> bool:
        """Is rank `a` the smaller? Blames ranks that cannot be compared."""
        try:
            return bool(a < b)
        except (Exception, SystemExit) as error:
            self.blame(
                "rank", "rank", second,
                f"returned {b!r} where job {first.id} has {a!r}: these cannot be compared ({error}); "
                f"return one kind of value for every job",
            )  # fmt: skip

    def _order(self, ranks: list[tuple[Job, Any]]) -> None:
        """Two ranks are equal, or one of them is the smaller. Each is held against its neighbour by arrival."""
        for (first, a), (second, b) in pairwise(ranks):
            if self._before(first, a, second, b) + self._before(second, b, first, a) + bool(a == b) != 1:
                self.blame(
                    "rank", "rank", second,
                    f"returned {b!r} where job {first.id} has {a!r}: neither equal nor one smaller than the other; "
                    f"return values that have a total order",
                )  # fmt: skip

    def _compare_waiting(self, rank: dict[Job, Any]) -> None:
        named = list(islice(self._waiting(), len(rank) + 1))
        wanted = [job for job in self.jobs if not (job.running or job.held_back)]
        for job in wanted:
            if job not in named:
                self.blame("waiting", "waiting", job, f"left out this job, which waits; {NAME_ALL}")
        for better, worse in pairwise(named):
            if self._before(worse, rank[worse], better, rank[better]):
                self.blame(
                    "waiting", "waiting", None,
                    f"named job {better.id}, of rank {rank[better]!r}, before job {worse.id}, of rank {rank[worse]!r}; "
                    f"it must agree with rank() and may decide ties only",
                )  # fmt: skip

    def _coldest(self, parked: list[Job]) -> list[Job]:
        names = set(parked)
        most = len(parked) + 1
        order: list[Job] = self._ask("coldest", None, self.jobs, list(parked), most=most)
        for job in order:
            if not isinstance(job, Job):
                self.blame("coldest", "coldest", None, f"named {job!r}, which is no Job; {NAME_JOBS}")
            if job not in names:
                self.blame("coldest", "coldest", job, "named a job that is not in `parked` (or named it twice); "
                           "name each job of `parked` once")  # fmt: skip
            names.remove(job)
        if names:
            job = min(names, key=lambda job: job.id)
            self.blame("coldest", "coldest", job, "left out this job of `parked`; name each of them once")
        return order

    def _waiting(self) -> Iterator[Job]:
        most = len(self.jobs) + 1
        seen: set[Job] = set()
        for job in self._ask("waiting", None, self.jobs, most=most):
            if not isinstance(job, Job):
                self.blame("waiting", "waiting", None, f"named {job!r}, which is no Job; {NAME_JOBS}")
            if job in seen or job.running or job.held_back or job not in self.jobs:
                why = (
                    "this job twice"
                    if job in seen
                    else "this job, which runs"
                    if job.running
                    else "this job, which it holds back"
                    if job.held_back
                    else "this job, which has gone"
                )
                self.blame("waiting", "waiting", job, f"named {why}; name each waiting job once")
            seen.add(job)
            yield job


def watch(inner: Policy) -> Watched:
    """Overrides what the inner policy overrides, since the Scheduler looks at that."""
    own: dict[str, Any] = {"settled": inner.settled, "needs": inner.needs, "__module__": __name__}
    if type(inner).coldest is not Policy.coldest:
        own["coldest"] = Watched._coldest
    if type(inner).waiting is not Policy.waiting:
        own["waiting"] = Watched._waiting
    made: Watched = type(type(inner).__name__, (Watched,), own)(inner)
    return made


def _listed(call: Callable[..., Any], most: int) -> Callable[..., list[Any]]:
    return lambda *args: list(islice(call(*args), most))


def _has_nan(value: object) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_nan, value))
    return isinstance(value, float) and value != value
