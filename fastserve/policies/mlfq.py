"""Multi-level feedback queues with ageing: FastServe's scheduler without skip-join (naive MLFQ).

A job enters the first level, is demoted when it has used up its level's quantum, and promoted when it has waited for
too long. All of it is enter(): note level and turn, rerank, set two alarms. The knobs are those on which papers, the
released code and re-implementations differ; docs/policies.md has their sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastserve.sched.checks import at_least, number, one_of, seconds
from fastserve.sched.job import NEVER, Job
from fastserve.sched.policy import Policy

MOST_LEVELS = 48
TURNS = 50
"""Bits of a rank below the level: more turns than any run has."""


class Standing:
    """Where one job stands."""

    __slots__ = ("entered", "first", "level", "rank")

    def __init__(self) -> None:
        self.level = -1
        self.rank = 0
        self.entered = 0  # ns: Mlfq.work() when its charge in this level was zero
        self.first = NEVER  # where quanta count tokens: ns served without them; NEVER until the first one has come


class Mlfq(Policy):
    """Rank: the level, then the turn, as one number. Level 0 is the paper's Q1.

    quanta: what is charged: the "time" of a job's iterations, or its "tokens", each of them the machine's shortest
    decode, whatever the iteration took and however many came with it; up to its first token it is time.
    q1: s, quantum of the first level; 0 is one decode iteration. ratio: of each quantum to the one above.
    levels: how many; 0: until a quantum covers the service of the longest output that the machine takes, and its
    longest prefill; "prefill": until one covers the longest prefill; "unbounded": as many as there may be, MOST_LEVELS.
    eta: levels of a demotion. demote_to: "eta", or "fit": the next level whose quantum covers the next iteration.
    strict: demote when the charge exceeds the quantum, not when it reaches it. carry: overshoot counts below.
    reinsert: demoted jobs queue at the "back" or the "front". alpha: s of waiting until promotion to the first level; 0
    never. check: iterations between looks for starving jobs (0: at once); at a look, jobs that never ran count as
    starving. promote_to: "back" or "front" of the first level. reset: a promotion forgets what was charged.
    eviction: "enst" (largest estimated next scheduled time leaves first) or "priority" (worst rank first).
    """

    settled = True

    def __init__(
        self,
        q1: float = 0.0,
        ratio: float = 2.0,
        levels: int | str = 0,
        eta: int = 1,
        demote_to: str = "eta",
        strict: bool = False,
        carry: bool = False,
        reinsert: str = "back",
        alpha: float = 0.3,
        check: int = 0,
        promote_to: str = "back",
        reset: bool = True,
        eviction: str = "enst",
        quanta: str = "time",
    ) -> None:
        one_of("quanta", quanta, ("time", "tokens"))
        seconds("q1", q1)
        seconds("alpha", alpha)
        at_least("eta", eta, 1)
        at_least("check", check, 0)
        number("ratio", ratio, 1)
        if levels not in ("prefill", "unbounded") and not (isinstance(levels, int) and 0 <= levels <= MOST_LEVELS):
            raise ValueError(f'levels={levels!r} is neither "prefill", "unbounded" nor a number up to {MOST_LEVELS}')
        one_of("demote_to", demote_to, ("eta", "fit"))
        one_of("reinsert", reinsert, ("back", "front"))
        one_of("promote_to", promote_to, ("back", "front"))
        one_of("eviction", eviction, ("enst", "priority"))
        self.q1 = round(q1 * 1e9)
        self.ratio = ratio
        self.levels = levels
        self.eta = eta
        self.fit = demote_to == "fit"
        self.strict = int(strict)
        self.carry = carry
        self.back = reinsert == "back"
        self.alpha = round(alpha * 1e9)
        self.check = check
        self.promote_back = promote_to == "back"
        self.reset = reset
        self.enst = eviction == "enst"
        self.by_token = quanta == "tokens"
        self.quanta: list[int] = []  # ns, by level
        self.standing: dict[Job, Standing] = {}
        self.population: list[int] = []  # live jobs by level
        self.look: dict[
            Job, tuple[int, int]
        ] = {}  # ns: when a starving job will be looked at, since when it has waited
        self.turn = 0

    # -- the policy ------------------------------------------------------------------------------------------------

    def rank(self, job: Job) -> int:
        return self.standing[job].rank

    def arrive(self, job: Job) -> None:
        if not self.quanta:
            self._set_up()
        self.enter(job, self.first_level(job), back=True)
        if self.check and self.alpha:
            self._await_look(job)

    def alarm(self, job: Job, why: str) -> None:
        at = self.standing[job]
        if why == "tokens" and at.first == NEVER:
            self.wake(job, served=None, tokens=self._tokens(self.quanta[at.level] + at.entered - self.work(job)))
        elif why != "waited":
            over = self.work(job) - at.entered - self.quanta[at.level] if self.carry else 0
            self.enter(job, self.demoted(job, at.level), charged=over, back=self.back)
        elif self.check and not self._looked_at(job):
            pass
        else:
            charged = 0 if self.reset else self.work(job) - at.entered
            self.enter(job, 0, charged=charged, back=self.promote_back)

    def depart(self, job: Job) -> None:
        self.population[self.standing.pop(job).level] -= 1
        self.look.pop(job, None)

    def first_level(self, job: Job) -> int:
        """Where a job joins. Naive: the top."""
        return 0

    def demoted(self, job: Job, level: int) -> int:
        """Where a job goes that has used up its quantum at this level."""
        last = len(self.quanta) - 1
        if not self.fit:
            return min(last, level + self.eta)
        owed = 0 if job.decoding else job.prompt + job.generated - job.prefilled
        return max(
            min(last, level + 1), self.covering(self.machine.prefill_ns(owed) if owed else self.machine.decode_ns)
        )

    def covering(self, ns: int) -> int:
        """The first level whose quantum is at least so long; the last one if none is."""
        for level, quantum in enumerate(self.quanta):
            if quantum >= ns:
                return level
        return len(self.quanta) - 1

    def enter(self, job: Job, level: int, charged: int = 0, back: bool = True) -> None:
        """Queue it at this level, with so many ns of the quantum used already."""
        at = self.standing.get(job)
        if at is None:
            at = self.standing[job] = Standing()
        else:
            self.population[at.level] -= 1
        self.population[level] += 1
        self.turn += 1
        at.level = level
        at.rank = (level << TURNS) + (self.turn if back else -self.turn)
        at.entered = self.work(job) - charged
        if self.look:
            self.look.pop(job, None)
        self.rerank(job)
        starves = self.alpha if level and self.alpha else None
        left = self.quanta[level] - charged
        if not self.by_token:
            self.wake(job, served=left + self.strict, waited=starves)
        elif at.first == NEVER:  # the first token changes what is charged
            self.wake(job, served=left + self.strict, tokens=1, waited=starves)
        else:
            self.wake(job, served=None, tokens=self._tokens(left), waited=starves)

    def work(self, job: Job) -> int:
        """ns that a job has been charged so far, in all levels."""
        if not self.by_token:
            return job.served
        at = self.standing[job]
        if at.first == NEVER:
            if not job.generated:
                return job.served
            at.first = job.served - job.generated * self.machine.decode_ns
        return at.first + job.generated * self.machine.decode_ns

    def _tokens(self, left: int) -> int:
        """Tokens until so many ns are charged."""
        return -(-(left + self.strict) // self.machine.decode_ns)

    def derived_settings(self) -> Mapping[str, Any]:
        if not self.quanta:
            self._set_up()
        return {"levels": len(self.quanta), "quanta": [quantum / 1e9 for quantum in self.quanta]}

    def explain(self, job: Job) -> str:
        at = self.standing[job]
        left = self.quanta[at.level] - (self.work(job) - at.entered)
        return f"Q{at.level + 1}, {max(0, left) / 1e6:.0f} ms left"

    # -- levels and looks for starving jobs ------------------------------------------------------------------------

    def _set_up(self) -> None:
        first = self.q1 or self.machine.decode_ns
        count = self.levels if isinstance(self.levels, int) and self.levels else MOST_LEVELS
        enough = self.machine.prefill_ns(self.machine.longest)
        if self.levels == 0:
            enough = max(enough, self.machine.output_ns)
        self.quanta = [first]
        while len(self.quanta) < count and (self.levels not in (0, "prefill") or self.quanta[-1] < enough):
            self.quanta.append(round(self.quanta[-1] * self.ratio))
        self.population = [0] * len(self.quanta)

    def _await_look(self, job: Job) -> None:
        """It starves, or has never run: its alarm rings at the next look, or before to see if it has run meanwhile.

        The time between looks is so many iterations of one decode each: a policy has no iteration counter.
        """
        period = self.check * self.machine.decode_ns
        at = (self.now // period + 1) * period
        self.look[job] = at, job.last_served
        self.wake(job, waited=at - self.now if job.served == 0 else min(at - self.now, self.alpha))

    def _looked_at(self, job: Job) -> bool:
        """Its alarm rang: is this a look at a starving job? If not, the alarm is set anew."""
        at, since = self.look.get(job, (0, -1))
        waited = self.now - job.last_served
        if job.served and waited < self.alpha:
            self.wake(job, waited=self.alpha - waited)
        elif since != job.last_served:
            self._await_look(job)
        elif self.now < at:
            self.wake(job, waited=min(at - self.now, self.alpha))
        else:
            return True
        return False

    # -- eviction --------------------------------------------------------------------------------------------------

    def coldest(self, parked: list[Job]) -> Iterable[Job]:
        """Largest estimated next scheduled time first (ENST, the paper's proactive KV management).

        ENST(i) = min(time until i is promoted, (1/B) * sum over jobs j above i of the quanta that take j down to i).
        """
        if not self.enst:
            return super().coldest(parked)
        drop = 0  # ns until all jobs above a level have come down to it, over all slots
        above = 0
        execute: list[int] = []
        for quantum, population in zip(self.quanta, self.population, strict=True):
            execute.append(drop)
            above += population
            drop += above * quantum
        slots = self.machine.slots

        def enst(job: Job) -> int:
            level = self.standing[job].level
            wait = execute[level] // slots
            if level and self.alpha and not job.running:
                wait = min(wait, max(0, job.last_served + self.alpha - self.now))
            return wait

        return sorted(parked, key=lambda job: (enst(job), self.standing[job].rank, job.arrival, job.id), reverse=True)
