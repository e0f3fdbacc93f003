"""The Scheduler: sans-IO. It is told what happened and when, and answers what to do next.

Both drivers keep one order of events, and nothing else calls the Scheduler: commit; drain the inbox (every arrival with
t <= now by (arrival, id), then cancels); plan; run. Time is an argument, in integer nanoseconds from any origin.

Three slots, each with a default: who goes first (Policy), what shape an iteration has (Batching), where KV lives
(Residency). An iteration costs what changed and not what runs: the step counter, the service clock, heaps of alarms and
sums over the batch stand for the jobs in it, which keep offsets only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from fastserve.sched.batching import Batching, owed
from fastserve.sched.charging import Charging
from fastserve.sched.errors import PolicyError, RefusedError
from fastserve.sched.job import NEVER, NOWHERE, Job, Meter
from fastserve.sched.kv import Ledger
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.policy import KEEP, Machine, Policy
from fastserve.sched.ranking import Alarms, Entry, Ranking
from fastserve.sched.residency import Residency
from fastserve.sched.uneven import check_extra, silent


class CopyingMachine(Machine, Protocol):
    """What the Scheduler itself must know about the machine, beside what it hands on to the policy."""

    def return_ns(self, blocks: int) -> int: ...  # copying so many blocks out and in again


class Scheduler:
    """Made by SchedulerConfig.build(). Raises PolicyError when the policy breaks.

    policy: bound to this Scheduler from here on; ValueError if it has served another. machine: its times, handed on to
    the policy. slots: how many jobs hold a place at once. visit: the visit guard, in returns; 0 disables.
    prefill_guard: a job that needs a prefill waits while less than this share of the host pool is free.
    skip_misfits: a waiting job that does not fit in memory is passed over instead of closing admission. macro: False
    plans one iteration at a time. The other objects serve this Scheduler alone.
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
        self.machine = machine
        self.slots = slots
        self.batching = batching
        self.meter = Meter(ledger.block, ledger.lookahead)
        self.live: dict[Job, None] = {}
        self.running: dict[Job, None] = {}
        self.prefilling: dict[Job, None] = {}  # running, with a prefill to do
        self.fresh: list[Job] = []  # running with a complete cache, and no token since they joined
        self.ranking = Ranking(policy, self.live)
        self.ledger = ledger
        self.bounded = ledger.blocks < NEVER
        self.residency = residency
        residency.bind(ledger, self.ranking)
        self.visit = visit if residency.displaces else NEVER
        self.guarding = self.visit > 0 and self.bounded
        self.skip_misfits = skip_misfits
        self.host_floor = round(ledger.host * prefill_guard) if ledger.host < NEVER else 0
        self.charging = charging
        self.macro = macro and policy.settled and charging.even
        self.batch = 0  # rolling jobs, and the tokens they will attend to in their next iteration
        self.context = 0
        self.hold = 0  # meter.service until which the visit guard keeps the batch as it is
        self.gone: list[Job] = []  # cancelled or cut off since the last plan
        self.by_service = Alarms()
        self.by_tokens = Alarms()
        self.by_wait = Alarms()
        self.plans = 0
        if policy._scheduler is not None:
            raise ValueError(f"this {type(policy).__name__} has served another run; make a fresh one for each")
        policy._scheduler = self
        policy.machine = machine
        policy.jobs = self.live.keys()

    # -- what the policy asks for ----------------------------------------------------------------------------------

    def rerank(self, job: Job) -> None:
        if job in self.live:
            self.ranking.dirty[job] = None

    def wake(self, job: Job, served: int | None, tokens: int | None, waited: int | None) -> None:
        if job not in self.live:
            return
        if served != KEEP:
            job.served_goal = NEVER if served is None else job.served + max(1, served)
            if job.running:
                self._watch_service(job)
        if tokens != KEEP:
            job.tokens_goal = NEVER if tokens is None else job.generated + max(1, tokens)
            if job.rolling:
                self._watch_tokens(job)
        if waited != KEEP:
            job.waited = 0 if waited is None else max(1, waited)
            if not job.running:
                self._watch_wait(job)

    def _watch_service(self, job: Job) -> None:
        self.by_service.set(job, job.served_goal - job.clock_base if job.served_goal < NEVER else NEVER)

    def _watch_tokens(self, job: Job) -> None:
        self.by_tokens.set(job, job.tokens_goal - job.tokens_base if job.tokens_goal < NEVER else NEVER)

    def _watch_wait(self, job: Job) -> None:
        self.by_wait.set(job, job.since + job.waited if job.waited else NEVER)

    # -- what the driver tells -------------------------------------------------------------------------------------

    def submit(self, job: Job, now: int) -> None:
        """A job came. Raises RefusedError if it can never fit, ValueError if it lacks a guess that is needed."""
        self.check(job)
        self.meter.now = self.policy.now = now
        job.meter = self.meter
        self.live[job] = self.ranking.dirty[job] = None
        self.hold = 0
        self._call("arrive", job)

    def check(self, job: Job) -> None:
        """Raises what submit() would, for the job alone: RefusedError or ValueError. May be asked from any thread."""
        blocks = self.ledger.need(job)
        if blocks > self.ledger.blocks:
            what = f"a prompt of {job.prompt} tokens"
            if self.ledger.whole and job.limit < NEVER:
                what += f" with up to {job.limit} more reserved"
            if self.ledger.lookahead:
                what += f" and a lookahead of {self.ledger.lookahead}"
            raise RefusedError(
                f"job {job.id}: {what} needs {blocks} KV blocks of {self.ledger.block} tokens, "
                f"the device has {self.ledger.blocks}"
            )
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
        lost = sorted(self.running, key=_age)
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
        self.slots = max_batch
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
        ranking = self.ranking
        if ranking.dirty or not ranking.settled:
            ranking.refresh()
        plan = Plan(now, self.running, self.gone)
        room, steady = self._choose(plan)
        ledger = self.ledger
        if self.bounded and (ledger.cold or plan.left or ledger.away):
            room = self.residency.make_room(plan, room)
        prefills = self._shape(plan)
        most = NEVER
        if prefills:
            # A lone prefill goes on chunk by chunk; its last chunk, which yields a token, is another plan.
            job, tokens = plan.prefill[0]
            most = (owed(job) - 1) // tokens if prefills == 1 else 1
        elif not plan.batch:
            return None
        if most > 1 and steady and self.macro and not plan.moves and not self.fresh:
            self._bound(plan, room, most)  # who has been fresh may be displaced after one token
        return plan

    def _choose(self, plan: Plan) -> tuple[int, bool]:
        """The best waiting jobs join, each displacing the weakest running ones that it strictly beats; run[top:] leave.

        Returns the blocks left over, and whether the same would be chosen at the next boundary if nothing happens: not
        so when memory made somebody leave (as a waiting job it has another rank), or keeps out the first of a queue
        that reorders itself.
        """
        ledger = self.ledger
        ranking = self.ranking
        run = ranking.run
        joined = plan.joined
        left = plan.left
        top = len(run)
        room = ledger.blocks - ledger.used
        slots = self.slots - len(self.running)
        cold = ledger.cold  # what would be parked
        while room < 0:  # the running jobs have outgrown the device: the weakest leave
            if top == 0:
                raise RuntimeError("jobs that cannot leave have outgrown the device; this is a bug in the Scheduler")
            if ranking.improve(top):
                continue
            top -= 1
            job = run[top][3]
            left.append(job)
            cold += ledger.held(job)
            room += ledger.need(job)
            slots += 1
        if self.hold > self.meter.service:
            if not left:
                plan.hold = self.hold
            return room, slots <= 0 or not left
        closed = False
        if not (ranking.wait or ranking.own_queue):
            pass
        elif not self.batching.gated or self._admits(plan.now):
            for rank, _, _, job in ranking.queue():
                if self.host_floor and self._set_aside(job, plan):
                    continue
                closed = True
                if left and not self._beats(
                    rank, run[top], job
                ):  # nobody takes the place of a better one that had to leave
                    break
                need = ledger.need(job)
                t = top
                s = slots
                r = room
                while s <= 0 or r < need:
                    if t == 0 or not self._beats(rank, run[t - 1], job):
                        break
                    if ranking.improve(t):
                        continue
                    t -= 1
                    s += 1
                    r += ledger.need(run[t][3])
                else:
                    c = cold
                    if self.bounded:
                        if job.place is not NOWHERE and job not in ledger.away:
                            c -= ledger.held(job)
                        for i in range(t, top):
                            c += ledger.held(run[i][3])
                        if t < top and self.guarding and r - need < c and self._guarded(plan, t, top):
                            break
                    while top > t:
                        top -= 1
                        left.append(run[top][3])
                    joined.append(job)
                    slots = s - 1
                    room = r - need
                    cold = c
                    closed = False
                    continue
                if self.skip_misfits and s > 0:
                    continue
                break
        return room, slots <= 0 or (not left and not (closed and ranking.own_queue))

    def _beats(self, rank: Any, entry: Entry, job: Job) -> bool:
        try:
            return bool(rank < entry[0])
        except (Exception, SystemExit) as error:
            message = f"ranks {rank!r} and {entry[0]!r} cannot be compared ({error}); return one kind of value"
            raise PolicyError(self.policy, "rank", job, message) from error

    def _admits(self, now: int) -> bool:
        running = len(self.running)
        return self.batching.may_join(now, running, self.slots, len(self.live) - running, next(iter(self.live)).arrival)

    def _set_aside(self, job: Job, plan: Plan) -> bool:
        """Does the prefill guard keep it waiting? Never when nobody else would run."""
        if job.place is not NOWHERE or not (self.running or plan.joined):
            return False
        return self.ledger.host - self.ledger.hosted < self.host_floor

    def _guarded(self, plan: Plan, t: int, top: int) -> bool:
        """Memory is short: does the visit guard protect anybody in run[t:top]? Then the batch holds until it ends."""
        until = 0
        for _, _, _, job in self.ranking.run[t:top]:
            until = max(until, job.joined_at + self.visit * self._return_ns(job))
        if until <= self.meter.service:
            return False
        plan.hold = until
        return True

    def _return_ns(self, job: Job) -> int:
        """ns: what coming back would cost a running job: copies both ways, or a prefill where the host has no room."""
        ledger = self.ledger
        held = ledger.held(job)
        if self.residency.swaps and held <= ledger.host - ledger.hosted:
            return self.machine.return_ns(held)
        return self.machine.prefill_ns(job.prompt + job.generated)

    def _shape(self, plan: Plan) -> int:
        """Who prefills and who decodes. Returns how many members have a prefill to do."""
        batch = self.batch
        context = self.context
        if not (self.prefilling or plan.joined or plan.left):
            plan.batch = batch
            plan.context = context
            return 0
        jobs = list(self.prefilling)
        for job in plan.left:
            batch -= 1
            context -= job.prompt + job.generated
        for job in plan.joined:
            if job.place is not NOWHERE:
                batch += 1
                context += job.prompt + job.tokens_base
            else:
                jobs.append(job)
        if jobs:
            if len(jobs) > 1:
                jobs = self.ranking.best_first(jobs)
            plan.prefill = self.batching.chunks(jobs, batch)
            if self.batching.decodes_wait:
                batch = context = 0
        plan.batch = batch
        plan.context = context
        return len(jobs)

    def _bound(self, plan: Plan, room: int, most: int) -> None:
        """How often, and for how long, the plan may be repeated before the Scheduler has to think again."""
        meter = self.meter
        steps = meter.steps
        k = min(most, self.by_tokens.next() - steps)
        service = self.by_service.next() - meter.service
        until = self.by_wait.next()
        for job in plan.joined:
            k = min(k, job.tokens_goal - job.tokens_base)
            service = min(service, job.served_goal - job.clock_base)
        for job in plan.left:
            if job.waited:
                until = min(until, plan.now + job.waited)
        if plan.hold:
            service = min(service, plan.hold - meter.service)
        plan.service = max(1, service)
        plan.until = until
        ledger = self.ledger
        if self.bounded and k > 1 and plan.batch:
            phase = ledger.phase
            if plan.joined or plan.left:
                block = ledger.block
                phase = phase.copy()
                for job in plan.left:
                    if ledger.grows(job):
                        phase[(job.prompt + job.tokens_base) % block] -= 1
                for job in plan.joined:
                    if ledger.grows(job):
                        phase[(job.prompt + job.tokens_base - steps) % block] += 1
            growing = sum(phase) if ledger.whole else plan.batch
            if growing:
                k = ledger.steps_within(room, growing, steps, k, phase)
        plan.iterations = max(1, k)

    # -- commit: all bookkeeping -----------------------------------------------------------------------------------

    def commit(self, plan: Plan, outcome: Outcome, now: int) -> list[Job]:
        """The plan has been run. Returns the jobs that are finished, by (arrival, id)."""
        k = outcome.iterations
        if not 1 <= k <= plan.iterations:
            raise ValueError(f"a plan for 1 to {plan.iterations} iterations was run {k} times")
        extra = outcome.extra
        if extra:
            check_extra(plan, outcome, self.ledger.lookahead)
        meter = self.meter
        ledger = self.ledger
        self.plans += 1
        meter.now = self.policy.now = now
        if plan.gone:
            self.gone = []
        # The guard is asked again once anything has changed that its answer may rest on; an unsettled rank always may.
        freed = bool(self.fresh) and plan.batch > 0  # they may be displaced from now on
        if extra and freed:
            freed = not silent(extra).issuperset(self.fresh)
        changed = freed or plan.moves or bool(plan.left) or bool(outcome.copied)
        self.hold = 0 if changed or not self.ranking.settled else plan.hold
        for job in plan.left:
            self._leave(job, plan.now)
        if plan.moves:
            for job in plan.drop:
                ledger.drop(job)
                self.ranking.dirty[job] = None
            for copy in plan.park:
                ledger.start(copy)
            for copy in plan.prefetch:
                ledger.start(copy)
        for job in plan.joined:
            self._join(job)
        if plan.moves:
            for copy in plan.clear:
                if not copy.out:
                    ledger.abort(copy)
        if outcome.copied:
            for copy in outcome.copied:
                ledger.finish(copy)
        charge = self.charging.charge(plan, outcome.service, self.prefilling, self.by_service)
        # Who joined or ends its prefill with this plan, and got no token from it, stays safe.
        owed = [job for job in silent(extra) if job.fresh or not job.rolling] if extra else ()
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
            self._amend(extra, owed)
        if self.by_service.heap or self.by_tokens.heap or self.by_wait.heap:
            self._ring(now)
        ended = list(outcome.ended)
        if ended:
            if len(ended) > 1:
                ended.sort(key=_age)
            for job in ended:
                if job in self.live:
                    self._depart(job, now, "stop")
        if ledger.used > ledger.blocks:
            ended = sorted(ended + self._cut_outgrown(), key=_age)
        return ended

    def _prefilled(self, job: Job) -> None:
        """Its cache is complete, and the iteration has yielded a token."""
        del self.prefilling[job]
        ledger = self.ledger
        if (job.prefilled + ledger.lookahead) % ledger.block == 0 and ledger.grows(job):
            ledger.used += 1
        job.tokens_base += 1
        self.hold = 0
        self._roll(job)

    def _amend(self, extra: Iterable[tuple[Job, int]], owed: Iterable[Job]) -> None:
        """The step counter has given each of them one token. owed: whose visit has yielded none so far."""
        for job, delta in extra:
            self.ledger.amend(job, delta)
            self.context += delta
            if job.tokens_goal < NEVER:
                self._watch_tokens(job)
        for job in owed:
            job.fresh = True
            self.fresh.append(job)

    def _ring(self, now: int) -> None:
        """Each alarm rings if it is still due at its turn; what becomes due meanwhile rings at the next boundary."""
        meter = self.meter
        by_service = self.by_service
        by_tokens = self.by_tokens
        by_wait = self.by_wait
        served = bool(by_service.heap) and by_service.heap[0][0] <= meter.service
        if served or (by_tokens.heap and by_tokens.heap[0][0] <= meter.steps):
            due = [(arrival, id, 0, job) for arrival, id, job in by_service.ripe(meter.service)]
            due += [(arrival, id, 1, job) for arrival, id, job in by_tokens.ripe(meter.steps)]
            if len(due) > 1:
                due.sort()
            for _, _, tokens, job in due:
                if tokens:
                    if by_tokens.stop(job, meter.steps):
                        job.tokens_goal = NEVER
                        self._alarm(job, "tokens")
                elif by_service.stop(job, meter.service):
                    job.served_goal = NEVER
                    self._alarm(job, "served")
        if by_wait.heap and by_wait.heap[0][0] <= now:
            waits = by_wait.ripe(now)
            if len(waits) > 1:
                waits.sort()
            for _, _, job in waits:
                if by_wait.stop(job, now):
                    job.since = now
                    self._watch_wait(job)
                    self._alarm(job, "waited")

    def _alarm(self, job: Job, why: str) -> None:
        self.hold = 0
        try:
            self.policy.alarm(job, why)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise PolicyError(self.policy, "alarm", job, error) from error

    def _call(self, method: str, job: Job) -> None:
        try:
            if method == "arrive":
                self.policy.arrive(job)
            else:
                self.policy.depart(job)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise PolicyError(self.policy, method, job, error) from error

    def _join(self, job: Job) -> None:
        whole = job.place is not NOWHERE
        self.ledger.join(job)
        self.by_wait.clear(job)
        self.running[job] = None
        job.running = True
        job.clock_base -= self.meter.service
        if job.served_goal < NEVER:
            self._watch_service(job)
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
        if job.tokens_goal < NEVER:
            self._watch_tokens(job)

    def _stop(self, job: Job) -> None:
        """It gives up its place."""
        self.ledger.used -= self.ledger.need(job)
        if job.rolling:
            self.ledger.roll(job, -1)
            job.tokens_base += self.meter.steps
            job.rolling = False
            self.batch -= 1
            self.context -= job.prompt + job.tokens_base
            self.by_tokens.clear(job)
            if job.fresh:
                job.fresh = False
                self.fresh.remove(job)
        else:
            del self.prefilling[job]
        job.clock_base += self.meter.service
        job.running = False
        del self.running[job]
        self.by_service.clear(job)

    def _leave(self, job: Job, then: int) -> None:
        self._stop(job)
        job.preemptions += 1
        job.since = job.last = then
        self._watch_wait(job)
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
        self.by_wait.clear(job)
        del self.live[job]
        job.finish = finish
        self.hold = 0
        self._call("depart", job)

    def _cut(self, job: Job, finish: str) -> None:
        """It ends though the executor has not ended it: the next plan says so."""
        self.gone.append(job)
        self._depart(job, self.meter.now, finish)

    def _cut_outgrown(self) -> list[Job]:
        """Jobs whose next token would not fit in the device even alone have come to their length."""
        outgrown = [job for job in self.running if job.rolling and self.ledger.need(job) > self.ledger.blocks]
        for job in sorted(outgrown, key=_age):
            self._cut(job, "length")
        return outgrown

    # -- for tests and check_policy --------------------------------------------------------------------------------

    def audit(self) -> None:
        """AssertionError if any sum has drifted from what the jobs themselves say. Between commit() and plan()."""
        ledger = self.ledger
        running = list(self.running)
        waiting = [job for job in self.live if not job.running]
        rolling = [job for job in running if job.rolling]
        orphans = [copy for copy in ledger.copies if copy.orphan]
        assert len(running) <= self.slots
        assert set(running) <= set(self.live)
        assert self.batch == len(rolling)
        assert self.context == sum([job.prompt + job.generated for job in rolling])
        assert set(self.prefilling) == {job for job in running if not job.rolling}
        assert set(self.fresh) == {job for job in running if job.fresh}
        assert ledger.used == sum([ledger.need(job) for job in running])
        assert ledger.cold == _held(ledger, waiting, "device", "leaving", "coming") + _blocks(orphans, out=False)
        assert ledger.leaving == _held(ledger, waiting, "leaving")
        assert ledger.hosted == _held(ledger, waiting, "host", "leaving", "coming") + _blocks(orphans, out=True)
        assert ledger.hosted <= ledger.host
        assert set(ledger.parked) == {job for job in waiting if job.place.value == "device"}
        assert set(ledger.away) == {job for job in waiting if job.place.value == "host"}


def _held(ledger: Ledger, jobs: Iterable[Job], *places: str) -> int:
    return sum([ledger.held(job) for job in jobs if job.place.value in places])


def _blocks(copies: Iterable[object], out: bool) -> int:
    return sum([copy.blocks for copy in copies if copy.out is out])  # type: ignore[attr-defined]


def _age(job: Job) -> tuple[int, int]:
    return job.arrival, job.id
