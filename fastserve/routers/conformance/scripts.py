"""What is played: a sender with a few replicas, written down in numbers, that asks a router and tells it what became of
its choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from random import Random
from typing import Any, NamedTuple

from fastserve.routers.router import Replica, Router, RouterFacts
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job

MS = 1_000_000
UNIT = 64  # prompt tokens of an id
SLOTS = 8
POOL = 40_000  # KV tokens of a replica

PLAN = {40: ("lost", 1), 60: ("came", 1), 80: ("drain", 0), 110: ("serve", 0), 130: ("came", 9), 150: ("lost", 9),
        160: ("lost", 0), 161: ("lost", 1), 190: ("came", 0), 191: ("came", 9)}  # fmt: skip
"""Of a script with trouble: before which request what happens to which replica; 9 is a new one."""


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    seed: int = 0
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # one a replica
    jobs: int = 240
    refresh: int = 0  # ns for which a view is used before it is taken anew; 0: each is true
    told: bool = True  # the replicas tell their load; False: it is the sender's own counts
    trouble: bool = False  # replicas are lost, drained and come, requests fail
    models: bool = False  # even requests are served by the first half of the replicas, odd ones by the others
    named: bool = True  # jobs have programs, clients and, where the router needs them, ids and guesses


SHAPES = (
    Script("steady"),
    Script("alone", weights=(1.0,), jobs=60),
    Script("weights", weights=(1.0, 4.0, 0.5)),
    Script("old views", refresh=400 * MS),
    Script("counted", told=False, named=False),
    Script("trouble", trouble=True),
    Script("trouble with old views", trouble=True, refresh=300 * MS, weights=(1.0, 2.0, 1.0, 1.0)),
    Script("two models", models=True, weights=(1.0,) * 5),
)


def write(seed: int) -> list[Script]:
    """One of each shape."""
    return [replace(shape, seed=seed) for shape in SHAPES]


class Choice(NamedTuple):
    """job: its id. replica: where the router sent it. place: its index into the views."""

    job: int
    place: int
    replica: int


@dataclass(slots=True)
class Stand:
    """A replica as the script has it."""

    view: ReplicaView  # as it is; its age is filled when it is shown
    jobs: dict[int, Job] = field(default_factory=dict)
    up: bool = True
    shown: ReplicaView | None = None  # the last look
    looked: int = 0  # ns, when that was


class Run:
    """One script with one router."""

    def __init__(self, router: Router, script: Script) -> None:
        self.router = router
        self.script = script
        self.random = Random(script.seed)
        self.now = 0
        self.stands = {number: self._stand(number, weight) for number, weight in enumerate(script.weights)}
        self.ends: list[tuple[int, int, int]] = []  # ns, job, replica
        self.choices: list[Choice] = []
        self.sent = 0

    def play(self) -> list[Choice]:
        """Raises what the router raises."""
        for _ in self.steps():
            pass
        return self.choices

    def steps(self) -> Iterator[None]:
        """Yields after each request, and plays on."""
        script, random = self.script, self.random
        replicas = tuple(Replica(stand.view.name, stand.view.weight) for stand in self.stands.values())
        self.tell("begin", RouterFacts(replicas, UNIT, script.seed))
        for number in range(script.jobs):
            self.now += round(random.expovariate(1 / (20 * MS)))
            self._end_due()
            if script.trouble and number in PLAN:
                self._trouble(*PLAN[number])
            self._route(self._job(number))
            yield
        while self.ends:
            self.now = max(self.now, self.ends[0][0])
            self._end_due()

    # -- what a watcher sees ---------------------------------------------------------------------------------------

    def ask(self, job: Job, views: list[ReplicaView]) -> int:
        return self.router.route(job, views)

    def tell(self, method: str, *args: Any) -> None:
        getattr(self.router, method)(*args)

    # -- what happens ----------------------------------------------------------------------------------------------

    def _stand(self, number: int, weight: float) -> Stand:
        source, slots = ("load", SLOTS) if self.script.told else ("counted", None)
        return Stand(ReplicaView(number, f"replica-{number}", weight, slots=slots, source=source))  # type: ignore[arg-type]

    def _job(self, number: int) -> Job:
        random, needs = self.random, self.router.needs
        units, guess, who = random.randrange(1, 60), random.randrange(1, 400), random.randrange(12)
        prompt = units * UNIT + random.randrange(UNIT)
        named = self.script.named
        ids = [(who << 40) + unit for unit in range(units)] if named and "prefixes" in needs else ()
        return Job(
            number, self.now, prompt, 4096, f"client-{who % 3}" if named else "default", f"program-{who}" * named,
            guess=guess if "guess" in needs else None, ids=ids,
        )  # fmt: skip

    def _route(self, job: Job) -> None:
        tried: set[int] = set()
        while True:
            serving = [number for number in self.stands if number not in tried and self._serves(number, job)]
            offered = [self.stands[number] for number in serving]
            if not offered:
                return
            views = [self._shown(stand) for stand in offered]
            index = self.ask(job, views)
            self.choices.append(Choice(job.id, index, offered[index].view.replica))
            self.sent += 1
            if self.sent % 37 == 0:  # the body sends it elsewhere
                index = self.random.randrange(len(offered))
            stand = offered[index]
            replica = stand.view.replica
            stand.jobs[job.id] = job
            self._count(stand)
            self.tell("sent", job, replica, self.now)
            if not (self.script.trouble and self.sent % 11 == 0):
                tokens = job.guess or self.random.randrange(1, 400)
                heappush(self.ends, (self.now + (tokens + job.prompt // 20) * MS, job.id, replica))
                return
            self._failed(stand, job)
            tried.add(replica)

    def _serves(self, number: int, job: Job) -> bool:
        half = len(self.script.weights) // 2
        return self.stands[number].up and (not self.script.models or (number < half) == (job.id % 2 == 0))

    def _shown(self, stand: Stand) -> ReplicaView:
        view = stand.view
        if stand.shown is None or self.now - stand.looked >= self.script.refresh:
            stand.shown, stand.looked = replace(view), self.now
        return replace(
            stand.shown, age=self.now - stand.looked, weight=view.weight, outstanding=view.outstanding,
            outstanding_tokens=view.outstanding_tokens,
        )  # fmt: skip

    def _count(self, stand: Stand) -> None:
        view, jobs = stand.view, list(stand.jobs.values())
        guesses = sum(job.guess or 0 for job in jobs)
        view.outstanding, view.outstanding_tokens = len(jobs), sum(job.prompt for job in jobs) + guesses
        view.expected_tokens = guesses
        if not self.script.told:
            view.running, view.queued_tokens = len(jobs), sum(job.prompt for job in jobs)
            return
        view.running, view.waiting = min(SLOTS, len(jobs)), max(0, len(jobs) - SLOTS)
        view.queued_tokens = sum(job.prompt for job in jobs[SLOTS:])
        used = min(POOL, sum(job.prompt for job in jobs[:SLOTS]))
        view.pool_tokens, view.cached_tokens = POOL, (POOL - used) // 2
        view.free_tokens = POOL - used - view.cached_tokens

    def _end_due(self) -> None:
        while self.ends and self.ends[0][0] <= self.now:
            _, number, replica = heappop(self.ends)
            stand = self.stands[replica]
            job = stand.jobs.pop(number, None)
            if job is not None:
                self._count(stand)
                self.tell("ended", job, replica, self.now, job.guess or 100)

    def _failed(self, stand: Stand, job: Job) -> None:
        del stand.jobs[job.id]
        self._count(stand)
        self.tell("failed", job, stand.view.replica, self.now)

    def _trouble(self, what: str, number: int) -> None:
        if what == "came":
            if number not in self.stands:
                self.stands[number] = self._stand(number, 1.0)
            self.stands[number].up = True
            view = self.stands[number].view
            self.tell("came", number, view.name, view.weight, self.now)
        elif what == "lost":
            stand = self.stands[number]
            stand.up, stand.shown = False, None
            lost = list(stand.jobs.values())
            for job in lost:
                self._failed(stand, job)
            self.tell("lost", number, self.now)
            for job in lost:
                self._route(_afresh(job))
        else:
            self.stands[number].up = what == "serve"


def _afresh(job: Job) -> Job:
    """The same request as another object, as a body may have it when it sends it again."""
    return Job(
        job.id, job.arrival, job.prompt, job.limit, job.client, job.program, guess=job.guess, ids=job.ids,
    )  # fmt: skip
