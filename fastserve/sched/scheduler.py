"""The Scheduler: sans-IO. It is told what happened and when, and answers what to do next.

Both drivers keep one order of events, and nothing else calls the Scheduler: commit (or tick, where nothing ran); drain
the inbox (every arrival with t <= now by (arrival, id), then cancels, then ends of programs); plan; run. Time is an
argument, in integer nanoseconds from any origin.

Three slots: who goes first (Policy), what shape an iteration has (Batching), where KV lives (Residency). An iteration
costs what changed and not what runs: the step counter, the service clock, heaps of alarms and sums over the batch stand
for the jobs in it, which keep offsets only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from fastserve.sched.amend import Amendable
from fastserve.sched.batching import Batching, owed
from fastserve.sched.bounds import Bounds
from fastserve.sched.charging import Charging
from fastserve.sched.choose import Chooser, CopyingMachine
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import NEVER, NOWHERE, Job, age
from fastserve.sched.kv import Ledger
from fastserve.sched.plan import Moves, Outcome, Plan
from fastserve.sched.policy import Policy
from fastserve.sched.residency import Residency, Rows
from fastserve.sched.uneven import check_extra


class Scheduler(Amendable):
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
        super().__init__(policy, ledger)
        self.batching = batching
        self.residency = residency
        self.charging = charging
        self.bounded = ledger.blocks < NEVER
        self.moving = self.bounded or isinstance(residency, Rows)  # may KV ever have to go?
        self.even = charging.even
        self.decodes_wait = batching.decodes_wait
        self.macro = macro and policy.settled and charging.even
        self.plans = 0
        residency.bind(ledger, self.ranking, self.running)
        self.bounds = Bounds(self.alarms, self.meter, ledger)
        self.chooser = Chooser(
            machine, self.meter, self.live, self.running, self.ranking, ledger, batching, residency,
            None if self.sharing is None else self.sharing.draft, self.holding, slots=slots, visit=visit,
            prefill_guard=prefill_guard, skip_misfits=skip_misfits,
        )  # fmt: skip
        if policy._scheduler is not None:
            raise ValueError(f"this {type(policy).__name__} has served another run; make a fresh one for each")
        policy._scheduler = self
        machine.pool_tokens = ledger.blocks * ledger.block if self.bounded else NEVER
        machine.host_tokens = ledger.host * ledger.block if ledger.host < NEVER else NEVER
        tier = None if self.sharing is None else self.sharing.tier
        machine.host_prefix_tokens = 0 if tier is None else tier.room * tier.tree.unit
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

    def hold(self, job: Job) -> None:
        if job.meter is self.meter and not job.finish:
            self.holding.hold(job)

    def release(self, job: Job) -> None:
        if job.meter is self.meter and not job.finish:
            self.holding.release(job)

    def contexts(self, programs: Iterable[str | Job]) -> list[int]:
        return self.programs.sizes(programs, self.live)

    def keep(self, program: str, until: int, key: float | None) -> None:
        self.holding.check("keep")
        if self.sharing is not None:
            self.sharing.tree.pins.keep(program, until, key, self.meter.now)

    def hits(self, window: int) -> tuple[int, int]:
        then = self.meter.now - window
        lately = [(found, asked) for at, found, asked in takewhile(lambda begun: begun[0] > then, reversed(self.begun))]
        return sum([found for found, _ in lately]), sum([asked for _, asked in lately])

    def pool_used(self) -> int:
        return (self.ledger.used + self.ledger.cold) * self.ledger.block

    def pool_idle(self) -> int:
        return 0 if self.sharing is None else self.sharing.tree.idle_units * self.sharing.unit

    # -- what the driver tells -------------------------------------------------------------------------------------

    def submit(self, job: Job, now: int) -> None:
        """A job came. Raises RefusedError if it can never fit, ValueError if it lacks a guess that is needed."""
        self.check(job)
        self.meter.now = self.policy.now = now
        job.meter = self.meter
        self.live[job] = self.ranking.dirty[job] = None
        self.guarded = 0
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

    def end_program(self, program: str, now: int) -> None:
        """Its driver knows that nothing more of this program will come. Told after the cancels, see above."""
        self.meter.now = self.policy.now = now
        self.guarded = 0
        try:
            self.policy.ended(program)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise PolicyError(self.policy, "ended", None, error) from error
        self.programs.end(program)
        self.keep(program, 0, None)

    def tick(self, now: int) -> bool:
        """Time has passed in which nothing ran, since plan() said None: in the place of a commit. The `waited` alarms
        of held jobs that are due ring; returns whether any has.
        """
        if not self.held:
            return False
        self.meter.now = self.policy.now = now
        rung = self.holding.ring(now)
        if rung:
            self.guarded = 0
        return rung

    def forget_all(self, now: int) -> list[Job]:
        """An iteration has failed, and all KV with it: the batch is empty, every live job owes its prefill again.

        The plan that failed is thrown away, and of copies under way nothing must be reported any more. Returns who lost
        a place, by (arrival, id): preempted, as any other that leaves without having ended.
        """
        self.meter.now = self.policy.now = now
        lost = sorted(self.running, key=age)
        for job in lost:
            self._leave(job, now)
            self.alarms.watch_corrected(job)
        self.ledger.forget_all(self.live)
        self.ranking.dirty.update(self.live)
        self.guarded = 0
        return lost

    def resize(self, max_batch: int) -> None:
        """From now on at most so many jobs share an iteration. ValueError if more have a place."""
        if not max(1, len(self.running)) <= max_batch:
            raise ValueError(
                f"a batch cap of {max_batch} with {len(self.running)} jobs in the batch: give at least as many, and 1"
            )
        self.batching.check(max_batch)
        self.residency.check(max_batch)
        self.chooser.slots = max_batch
        self.guarded = 0

    def resize_pool(self, blocks: int) -> None:
        """From now on the device has so many KV blocks. ValueError below 1, or where the pool is not bounded.

        Running jobs that no longer fit leave with the next plan, the weakest first. Who would not fit even alone waits,
        and closes nothing for others, until there are more again; check() tells, and a driver may cancel it.
        """
        if not self.bounded:
            raise ValueError("the KV pool of this Scheduler has no bound to move: build it with a number of blocks")
        if blocks < 1:
            raise ValueError(f"a KV pool of {blocks} blocks holds nothing; give at least 1")
        if blocks == self.ledger.blocks:
            return
        self.ledger.blocks = blocks
        self.chooser.skips = True
        self.policy.machine.pool_tokens = blocks * self.ledger.block
        self.guarded = 0
        if self.sharing is not None:
            self.sharing.moved = True

    def opens_at(self) -> int:
        """After plan() said None with jobs waiting: ns, when to call tick() and ask again though nothing happens; or
        NEVER. It may have passed.
        """
        if self.held:
            return self.holding.opens_at(self.batching)
        at = self.batching.opens_at(next(iter(self.live)).arrival) if self.live else NEVER
        return at if at > self.meter.now else NEVER  # else it is open, and nobody fits

    # -- plan: pure, but for the freshness of stored ranks ---------------------------------------------------------

    def plan(self, now: int) -> Plan | None:
        """What to do next; None if there is nothing to do. May be asked twice, logged or thrown away."""
        if not self.live:
            return None
        self.meter.now = self.policy.now = now
        chosen = self.chooser
        chosen.choose(now, self.guarded)
        joined = chosen.joined
        left = chosen.left
        room = chosen.room
        moves: Moves | None = None
        ledger = self.ledger
        # (Where all of its KV is there already, a job is fetched by a copy of no blocks: it takes none that are cold.)
        if self.moving and (ledger.cold or left or ledger.away or ledger.copies or ledger.parked):
            free = room - ledger.cold
            if joined or left:
                free -= chosen.parked
            room = self.residency.make_room(joined, left, free)
            moves = self.residency.moves
        batch = self.batch
        context = self.context
        prefill: Sequence[tuple[Job, int]] = ()
        most = NEVER
        if self.prefilling or joined or left:
            prefills = list(self.prefilling)
            if joined or left:
                for job in left:
                    if job.rolling:
                        batch -= 1
                        context -= job.prompt + job.generated
                    else:
                        prefills.remove(job)
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
                chunks = self.batching.chunks(prefills, batch, self.found)
                prefill = chunks
                if self.decodes_wait:
                    batch = context = 0
                # A lone prefill goes on chunk by chunk; its last chunk, which yields a token, is another plan.
                most = (owed(prefills[0]) - 1) // chunks[0][1] if alone else 1
        if not (batch or prefill or left):
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
        self.guarded = hold
        if plan.joined or plan.left or plan.moves is not None:
            self._follow(plan)
        if self.sharing is not None:
            self.sharing.follow(plan, k)
        if plan.batch:
            ledger.advance(meter.steps, k)
            self.context += k * self.batch
            meter.steps += k
            if self.fresh:
                for job in self.fresh:
                    job.fresh = False
                    self.ranking.dirty[job] = None
                self.fresh = []
        if outcome.copied:
            for copy in outcome.copied:
                ledger.finish(copy)
        charge = outcome.service
        if not self.even:
            charge = self.charging.charge(plan, charge, self.prefilling, self.alarms)
        meter.service += charge
        for job, tokens in plan.prefill:
            job.prefilled += k * tokens
            if job.prefilled == job.prompt + job.tokens_base:
                self._prefilled(job)
        if extra:
            self._amend(extra, tokenless)
        alarms = self.alarms
        if (alarms.served or alarms.tokens or alarms.waited) and alarms.ripe(now) and alarms.ring(now):
            self.guarded = 0
        ended: list[Job] = []
        if outcome.ended:
            ended += outcome.ended
            if len(ended) > 1:
                ended.sort(key=age)
            for job in ended:
                if job in self.live:
                    self._depart(job, now, "stop", outcome)
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
        if self.held:
            for job in plan.joined:
                if job in self.held:
                    self.holding.overrule(job, plan.now)
        for job in plan.joined:
            self._join(job)
        if plan.shares is not None and self.sharing is None:
            for job, tokens in plan.shares.found.items():
                job.prefilled = tokens
        if moves is not None:
            self.ledger.give_way(moves.clear)
