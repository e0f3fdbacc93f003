"""Members: who has a place in the batch, and what becomes of a job as it joins, leaves and ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from fastserve.sched.alarms import Alarms
from fastserve.sched.errors import PolicyError
from fastserve.sched.holding import Holding
from fastserve.sched.job import NOWHERE, Job, Meter, age
from fastserve.sched.kv import Ledger
from fastserve.sched.plan import NOTHING, Outcome
from fastserve.sched.policy import Policy, PolicyContext
from fastserve.sched.programs import Programs
from fastserve.sched.ranking import Ranking
from fastserve.sched.sharing import SharedLedger

RECENT: Final = 1 << 16
"""Prefills that are remembered where prefixes are cached."""


class Members(PolicyContext):
    """Sums over the batch stand for the jobs in it, which keep offsets only; each change here keeps both right."""

    def __init__(self, policy: Policy, ledger: Ledger) -> None:
        self.policy = policy
        self.ledger = ledger
        self.sharing = ledger if isinstance(ledger, SharedLedger) else None
        sharing = self.sharing
        tree = None if sharing is None else sharing.tree
        reach = None if sharing is None or sharing.tier is None else sharing.tier.reach
        self.meter = Meter(ledger.block, ledger.lookahead, tree, reach)
        self.live: dict[Job, None] = {}
        self.running: dict[Job, None] = {}
        self.prefilling: dict[Job, None] = {}  # running, with a prefill to do
        self.fresh: list[Job] = []  # running with a complete cache, and no token since they joined
        self.batch = 0  # rolling jobs, and the tokens they will attend to in their next iteration
        self.context = 0
        self.guarded = 0  # meter.service until which the visit guard keeps the batch as it is
        self.gone: list[Job] = []  # cancelled or cut off since the last plan
        self.found: Mapping[Job, int] = NOTHING  # of a plan that is made: tokens that who joins would find
        self.ranking = Ranking(policy, self.live)
        self.alarms = Alarms(policy, self.meter)
        self.holding = Holding(self.live, self.ranking, self.alarms, self.meter)
        self.held = self.holding.jobs
        self.programs = Programs(0 if self.sharing is None else self.sharing.unit)
        self.begun: deque[tuple[int, int, int]] = deque(maxlen=RECENT)  # prefills: ns, tokens found, tokens asked for

    def _prefilled(self, job: Job) -> None:
        """Its cache is complete, and the iteration has yielded a token."""
        del self.prefilling[job]
        ledger = self.ledger
        if (job.prefilled + ledger.lookahead) % ledger.block == 0 and ledger.grows(job):
            ledger.used += 1
        job.tokens_base += 1
        self.guarded = 0
        if self.sharing is not None:
            self.sharing.computed(job)
        self._roll(job)

    def _amend(self, extra: Iterable[tuple[Job, int]], tokenless: Iterable[Job]) -> None:
        """The step counter has given each of them one token. tokenless: whose visit has yielded none so far."""
        for job, delta in extra:
            self.ledger.amend(job, delta)
            self.context += delta
            self.alarms.watch_tokens(job)
        for job in tokenless:
            job.fresh = True
            self.fresh.append(job)

    def _join(self, job: Job) -> None:
        whole = job.place is not NOWHERE
        self.ledger.join(job)
        self.running[job] = None
        job.running = True
        job.clock_base -= self.meter.service
        self.alarms.watch_served(job)
        job.joined_at = self.meter.service
        if whole:
            job.fresh = True
            self.fresh.append(job)
            self._roll(job)
        else:
            self.prefilling[job] = None
            self.ranking.dirty[job] = None

    def _roll(self, job: Job) -> None:
        """Its cache is complete: from here on the step counter counts its tokens."""
        self.batch += 1
        self.context += job.prompt + job.tokens_base
        job.tokens_base -= self.meter.steps
        job.rolling = True
        self.ledger.roll(job, 1)
        self.ranking.dirty[job] = None
        self.alarms.watch_tokens(job)

    def _stop(self, job: Job) -> None:
        """It gives up its place."""
        self.ledger.used -= self.ledger.need(job)
        if job.rolling:
            self.ledger.roll(job, -1)
            job.tokens_base += self.meter.steps
            job.rolling = False
            self.batch -= 1
            self.context -= job.prompt + job.tokens_base
            if job.fresh:
                job.fresh = False
                self.fresh.remove(job)
        else:
            del self.prefilling[job]
        job.clock_base += self.meter.service
        job.running = False
        del self.running[job]

    def _leave(self, job: Job, then: int) -> None:
        self._stop(job)
        job.preemptions += 1
        job.since = job.last = then
        self.alarms.watch_waited(job)
        self.ranking.dirty[job] = None
        self.ledger.leave(job)

    def _depart(self, job: Job, now: int, finish: str, outcome: Outcome | None = None) -> None:
        if job.running:
            self._stop(job)
            if self.sharing is not None:
                self.sharing.end(job, outcome)
            job.last = now
            job.place = NOWHERE
        else:
            self.ledger.remove(job)
        self.ranking.remove(job)
        job.waited = 0  # its clocks stand still for good, and with them what it has in the heaps of alarms
        del self.live[job]
        job.finish = finish
        self.guarded = 0
        if job.hold is not None and job.hold.on:
            self.holding.end(job, now)
        if job.program:
            self.programs.went(job, now, outcome)
        if outcome is not None and outcome.calls:
            job.calls = outcome.calls.get(job, "")
        try:
            self.policy.depart(job)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise PolicyError(self.policy, "depart", job, error) from error

    def _cut(self, job: Job, finish: str) -> None:
        """It ends though the body has not ended it: the next plan says so."""
        self.gone.append(job)
        self._depart(job, self.meter.now, finish)

    def _cut_outgrown(self) -> list[Job]:
        """Jobs whose next token would not fit in the device even alone: no policy could go on with them."""
        outgrown = [job for job in self.running if job.rolling and self.ledger.need(job) > self.ledger.blocks]
        for job in sorted(outgrown, key=age):
            self._cut(job, "truncated")
        return outgrown
