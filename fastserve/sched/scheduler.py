"""The Scheduler: sans-IO. It is told what happened and when, and answers what to do next.

Both drivers keep one order of events, and nothing else calls the Scheduler: commit; drain the inbox (every arrival with
t <= now by (arrival, id), then cancels); plan; run. Time is an argument, in integer nanoseconds from any origin.

Three slots: who goes first (Policy), what shape an iteration has (Batching), where KV lives (Residency). An iteration
costs what changed and not what runs: the step counter, the service clock, heaps of alarms and sums over the batch stand
for the jobs in it, which keep offsets only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastserve.sched.alarms import Alarms
from fastserve.sched.batching import Batching, owed
from fastserve.sched.bounds import Bounds
from fastserve.sched.charging import Charging
from fastserve.sched.choose import Chooser, CopyingMachine
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import NEVER, NOWHERE, Job, Meter, age
from fastserve.sched.kv import Ledger
from fastserve.sched.plan import Moves, Outcome, Plan
from fastserve.sched.policy import Policy, PolicyContext
from fastserve.sched.ranking import Ranking
from fastserve.sched.residency import Residency
from fastserve.sched.uneven import check_extra


class Scheduler(PolicyContext):
    """Made by SchedulerConfig.build(). Raises PolicyError when the policy breaks.

    policy: bound to this Scheduler from here on; ValueError if it has served another. machine: its times, handed on to
    the policy. slots: how many jobs hold a place at once. macro: False plans one iteration at a time. The others serve
    this Scheduler alone; visit, prefill_guard and skip_misfits: see Chooser.
    """

    def __init__(
        self,
        policy: Policy,
        machine: CopyingMachine,
        *,
        slots: int,
        batching: Batching,
        ledger: Ledger,
        residency: Residency,
        charging: Charging,
        visit: int = 0,
        prefill_guard: float = 0.0,
        skip_misfits: bool = False,
        macro: bool = True,
    ) -> None:
        self.policy = policy
        self.batching = batching
        self.ledger = ledger
        self.residency = residency
        self.charging = charging
        self.bounded = ledger.blocks < NEVER
        self.even = charging.even
        self.decodes_wait = batching.decodes_wait
        self.macro = macro and policy.settled and charging.even
        self.meter = Meter(ledger.block, ledger.lookahead)
        self.live: dict[Job, None] = {}
        self.running: dict[Job, None] = {}
        self.prefilling: dict[Job, None] = {}  # running, with a prefill to do
        self.fresh: list[Job] = []  # running with a complete cache, and no token since they joined
        self.batch = 0  # rolling jobs, and the tokens they will attend to in their next iteration
        self.context = 0
        self.hold = 0  # meter.service until which the visit guard keeps the batch as it is
        self.gone: list[Job] = []  # cancelled or cut off since the last plan
        self.plans = 0
        self.ranking = Ranking(policy, self.live)
        residency.bind(ledger, self.ranking)
        self.alarms = Alarms(policy, self.meter)
        self.bounds = Bounds(self.alarms, self.meter, ledger)
        self.chooser = Chooser(
            machine, self.meter, self.live, self.running, self.ranking, ledger, batching, residency, slots=slots,
            visit=visit, prefill_guard=prefill_guard, skip_misfits=skip_misfits,
        )  # fmt: skip
        if policy._scheduler is not None:
            raise ValueError(f"this {type(policy).__name__} has served another run; make a fresh one for each")
        policy._scheduler = self
        policy.machine = machine
        policy.jobs = self.live.keys()

    @property
    def slots(self) -> int:
        """The batch cap."""
        return self.chooser.slots

    # -- what the policy asks for ----------------------------------------------------------------------------------

    def rerank(self, job: Job) -> None:
        if job.meter is self.meter and not job.finish:  # as `job in self.live` says, but quicker
            self.ranking.dirty[job] = None

    def wake(self, job: Job, served: int | None, tokens: int | None, waited: int | None) -> None:
        if job.meter is self.meter and not job.finish:
            self.alarms.wake(job, served, tokens, waited)

    # -- what the driver tells -------------------------------------------------------------------------------------

    def submit(self, job: Job, now: int) -> None:
        """A job came. Raises RefusedError if it can never fit, ValueError if it lacks a guess that is needed."""
        self.check(job)
        self.meter.now = self.policy.now = now
        job.meter = self.meter
        self.live[job] = self.ranking.dirty[job] = None
        self.hold = 0
        try:
            self.policy.arrive(job)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise PolicyError(self.policy, "arrive", job, error) from error

    def check(self, job: Job) -> None:
        """Raises what submit() would, for the job alone: RefusedError or ValueError. May be asked from any thread."""
        self.ledger.check(job)
        if "guess" in self.policy.needs and job.guess is None:
            raise ValueError(
                f"job {job.id} has no guess, and policy {type(self.policy).__name__} needs one: add a predictor"
            )

    def cancel(self, job: Job, now: int) -> None:
        """Its client went away. A job that has departed is ignored."""
        if job in self.live:
            self.meter.now = self.policy.now = now
            self._cut(job, "cancelled")

    def forget_all(self, now: int) -> list[Job]:
        """An iteration has failed, and all KV with it: the batch is empty, every live job owes its prefill again.

        The plan that failed is thrown away, and of copies under way nothing must be reported any more. Returns who lost
        a place, by (arrival, id): preempted, as any other that leaves without having ended.
        """
        self.meter.now = self.policy.now = now
        lost = sorted(self.running, key=age)
        for job in lost:
            self._leave(job, now)
        self.ledger.forget_all(self.live)
        self.ranking.dirty.update(self.live)
        self.hold = 0
        return lost

    def resize(self, max_batch: int) -> None:
        """From now on at most so many jobs share an iteration. ValueError if more have a place."""
        if not max(1, len(self.running)) <= max_batch:
            raise ValueError(
                f"a batch cap of {max_batch} with {len(self.running)} jobs in the batch: give at least as many, and 1"
            )
        self.batching.check(max_batch)
        self.chooser.slots = max_batch
        self.hold = 0

    def opens_at(self) -> int:
        """After plan() said None with jobs waiting: ns, when to ask again though nothing happens; or NEVER."""
        return self.batching.opens_at(next(iter(self.live)).arrival) if self.live else NEVER

    # -- plan: pure, but for the freshness of stored ranks ---------------------------------------------------------

    def plan(self, now: int) -> Plan | None:
        """What to do next; None if there is nothing to do. May be asked twice, logged or thrown away."""
        if not self.live:
            return None
        self.meter.now = self.policy.now = now
        chosen = self.chooser
        chosen.choose(now, self.hold)
        joined = chosen.joined
        left = chosen.left
        room = chosen.room
        moves: Moves | None = None
        ledger = self.ledger
        if self.bounded and (ledger.cold or left or ledger.away):
            room = self.residency.make_room(joined, left, room)
            moves = self.residency.moves
        batch = self.batch
        context = self.context
        prefill: Sequence[tuple[Job, int]] = ()
        most = NEVER
        if self.prefilling or joined or left:
            prefills = list(self.prefilling)
            if joined or left:
                for job in left:
                    batch -= 1
                    context -= job.prompt + job.generated
                for job in joined:
                    if job.place is NOWHERE:
                        prefills.append(job)
                    else:
                        batch += 1
                        context += job.prompt + job.tokens_base
            if prefills:
                alone = len(prefills) == 1
                if not alone:
                    prefills = self.ranking.best_first(prefills)
                chunks = self.batching.chunks(prefills, batch)
                prefill = chunks
                if self.decodes_wait:
                    batch = context = 0
                # A lone prefill goes on chunk by chunk; its last chunk, which yields a token, is another plan.
                most = (owed(prefills[0]) - 1) // chunks[0][1] if alone else 1
        if not (batch or prefill):
            return None
        iterations = 1
        service = until = NEVER
        if most > 1 and chosen.steady and self.macro and moves is None and not self.fresh:
            bounds = self.bounds  # (who has been fresh may be displaced after one token)
            bounds.extend(now, joined, left, chosen.hold, batch, room, most)
            iterations = bounds.iterations
            service = bounds.service
            until = bounds.until
        return Plan(
            now, self.running, self.gone, joined, left, prefill, moves, batch, context, iterations, service, until,
            chosen.hold,
        )  # fmt: skip

    # -- commit: all bookkeeping -----------------------------------------------------------------------------------

    def commit(self, plan: Plan, outcome: Outcome, now: int) -> list[Job]:
        """The plan has been run. Returns the jobs that are finished, by (arrival, id)."""
        k = outcome.iterations
        if k < 1 or k > plan.iterations:
            raise ValueError(f"a plan for 1 to {plan.iterations} iterations was run {k} times")
        extra = outcome.extra
        if extra:
            check_extra(plan, outcome, self.ledger.lookahead)
            # Who joins or ends its prefill with this plan, and got no token from it, stays safe.
            tokenless = [job for job, delta in extra if delta < 0 and (job.fresh or not job.rolling)]
        meter = self.meter
        ledger = self.ledger
        self.plans += 1
        meter.now = self.policy.now = now
        if plan.gone:
            self.gone = []
        hold = plan.hold
        if hold:
            # The guard is asked again once anything has changed that its answer may rest on; an unsettled rank always
            # may. Who has been fresh may be displaced from now on.
            fresh = self.fresh
            freed = bool(fresh) and plan.batch > 0 and not (extra and set(tokenless).issuperset(fresh))
            if freed or plan.moves is not None or plan.left or outcome.copied or not self.ranking.settled:
                hold = 0
        self.hold = hold
        if plan.joined or plan.left or plan.moves is not None:
            self._follow(plan)
        if outcome.copied:
            for copy in outcome.copied:
                ledger.finish(copy)
        charge = outcome.service
        if not self.even:
            charge = self.charging.charge(plan, charge, self.prefilling, self.alarms)
        if plan.batch:
            ledger.advance(meter.steps, k)
            self.context += k * self.batch
            meter.steps += k
            if self.fresh:
                for job in self.fresh:
                    job.fresh = False
                    self.ranking.dirty[job] = None
                self.fresh = []
        meter.service += charge
        for job, tokens in plan.prefill:
            job.prefilled += k * tokens
            if job.prefilled == job.prompt + job.tokens_base:
                self._prefilled(job)
        if extra:
            self._amend(extra, tokenless)
        alarms = self.alarms
        if (alarms.served or alarms.tokens or alarms.waited) and alarms.ripe(now) and alarms.ring(now):
            self.hold = 0
        ended: list[Job] = []
        if outcome.ended:
            ended += outcome.ended
            if len(ended) > 1:
                ended.sort(key=age)
            for job in ended:
                if job in self.live:
                    self._depart(job, now, "stop")
        if ledger.used > ledger.blocks:
            ended = sorted(ended + self._cut_outgrown(), key=age)
        return ended

    def _follow(self, plan: Plan) -> None:
        """Who gives up a place, whose KV moves, and who takes a place, in this order."""
        moves = plan.moves
        for job in plan.left:
            self._leave(job, plan.now)
        if moves is not None:
            self.ledger.begin(moves.drop, moves.park, moves.prefetch)
            for job in moves.drop:
                self.ranking.dirty[job] = None
        for job in plan.joined:
            self._join(job)
        if moves is not None:
            self.ledger.give_way(moves.clear)

    def _prefilled(self, job: Job) -> None:
        """Its cache is complete, and the iteration has yielded a token."""
        del self.prefilling[job]
        ledger = self.ledger
        if (job.prefilled + ledger.lookahead) % ledger.block == 0 and ledger.grows(job):
            ledger.used += 1
        job.tokens_base += 1
        self.hold = 0
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

    def _depart(self, job: Job, now: int, finish: str) -> None:
        if job.running:
            self._stop(job)
            job.last = now
            job.place = NOWHERE
        else:
            self.ledger.remove(job)
        self.ranking.remove(job)
        job.waited = 0  # its clocks stand still for good, and with them what it has in the heaps of alarms
        del self.live[job]
        job.finish = finish
        self.hold = 0
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
