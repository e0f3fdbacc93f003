"""A body that does other than it is asked, and a driver that counts again and resizes the pool: the same ones for the
Scheduler and the specification, and their comparison.

    python -m tests.sched.trouble --seeds 1000 --seconds 600

compares as many cases as the time allows, beyond those of the ordinary tests.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

import numpy as np

from fastserve.hardware.machine_times import MachineTimes
from fastserve.sched.job import DEVICE, NEVER, NOWHERE, Job
from fastserve.sched.plan import Outcome, Plan
from sim.world import World
from tests.sched.closed import Loop
from tests.sched.gates import GATES
from tests.sched.sharing import UNITS, main, programs, tuned
from tests.sched.spec import Spec, simulate
from tests.sched.test_specification import audited, differences, options_for, records, unalike
from tests.sched.uneven import Truth, UnevenMachine
from tests.sched.worlds import MS, Work, build, chained, hardware, workload

Amendment = tuple[Any, list[Any], list[Any], dict[Any, int]]


class Whims:
    """What the body does otherwise at a boundary, as the time and the jobs say: nothing else is asked.

    often: one boundary in so many. until: ns, from then on it does as it is told.
    """

    def __init__(self, seed: int, often: int, until: int) -> None:
        self.seed = seed
        self.often = often
        self.until = until
        self.count = {"amended": 0, "absent": 0, "lost": 0, "found": 0, "prefill": 0}

    def at(self, now: int) -> bool:
        return now < self.until and crc32(b"%d %d" % (self.seed, now)) % self.often == 0

    def draw(self, now: int, what: str, job: Any) -> int:
        return crc32(b"%d %d %d %s" % (self.seed, now, job.id, what.encode()))

    def otherwise(
        self, now: int, joined: list[Any], left: list[Any], chunks: Iterable[tuple[Any, int]], live: Iterable[Any]
    ) -> Amendment | None:
        """(prefill, absent, lost, found) of a plan; None if all is done as asked."""
        if not self.at(now):
            return None
        style = crc32(b"%d %d style" % (self.seed, now))
        live = sorted(live, key=lambda job: job.id)
        absent = [job for job in joined if self.draw(now, "absent", job) % 4 == 0]
        may = [job for job in live if job.place is DEVICE or (job.place is NOWHERE and job in joined)]
        lost = [job for job in may if self.draw(now, "lost", job) % 8 == 0] if style % 3 == 0 else []
        come = [job for job in live if job in joined and job not in absent and job not in lost]
        come = [job for job in come if job.place is NOWHERE]
        found = {}
        for job in come:
            dice = self.draw(now, "found", job)
            if dice % 3 == 0:
                found[job] = dice // 9 % (job.prompt + job.generated) if dice // 3 % 3 else 0
        prefill: list[tuple[Any, int]] | None = None
        if style // 3 % 2:
            prefill = []
            asked = dict(chunks)
            stay = [job for job in live if job.running and not (job.decoding or job in left or job in lost)]
            for job in stay + come:
                owed = job.prompt + job.generated - found.get(job, self.begin(job))
                dice = self.draw(now, "prefill", job)
                tokens = min(owed, [asked.get(job, 0), dice // 8 % owed, dice // 8 % owed + 1, owed][dice % 4])
                if tokens:
                    prefill.append((job, tokens))
        for name, told in (("absent", absent), ("lost", lost), ("found", found), ("prefill", prefill or ())):
            self.count[name] += len(told)
        self.count["amended"] += 1
        return prefill, absent, lost, found

    def late(self, job: Any, before: int, got: int) -> int:
        """By how much the count of a job that ends is put right. before: its tokens before the last iteration."""
        delta = self.wrong(job)
        return delta if before and before + got + delta <= job.limit else 0

    def wrong(self, job: Any) -> int:
        return [0, 0, -1, 2][crc32(b"%d %d late" % (self.seed, job.id)) % 4]

    def begin(self, job: Any) -> int:
        """Tokens of its prefill that are there, by the plan as it stands."""
        return int(job.prefilled)


class PlanWhims(Whims):
    """For the Scheduler: what is found is in the plan and not yet in the job."""

    plan: Plan

    def begin(self, job: Any) -> int:
        return self.plan.first(job)


class Trouble:
    """Corrections and sizes of the pool, at times. events: (ns, id or -1, tokens or blocks). most: of a job.

    A count is put right by so much where that is possible for this job.
    """

    def __init__(self, events: list[tuple[int, int, int]], outputs: list[int], most: int) -> None:
        self.events = sorted(events)
        self.outputs = outputs
        self.most = most
        self.corrected = self.resized = 0

    @property
    def at(self) -> int:
        return self.events[0][0] if self.events else NEVER

    def tell(self, now: int, live: Mapping[int, Any], brain: Any) -> None:
        while self.at <= now:
            _, id, n = self.events.pop(0)
            if id < 0:
                self.resized += 1
                self.resize(brain, n, now)
            elif id in live:
                job = live[id]
                # (Neither the host must overflow, nor the job what the device has at best.)
                more = job.place in (DEVICE, NOWHERE) and job.prompt + job.generated + n <= self.most
                if 0 <= job.generated + n <= self.outputs[id] and (n < 0 or more):
                    self.corrected += 1
                    self.correct(brain, job, n, now)

    def correct(self, brain: Any, job: Any, n: int, now: int) -> None:
        brain.correct(job, n)

    def resize(self, brain: Any, blocks: int, now: int) -> None:
        brain.resize_pool(blocks)


class SchedulerTrouble(Trouble):
    world: World

    def correct(self, brain: Any, job: Any, n: int, now: int) -> None:
        brain.correct(job, n, now)
        if self.world.observers.members:
            self.world.observers.corrected(job, n, now)

    def resize(self, brain: Any, blocks: int, now: int) -> None:
        brain.resize_pool(blocks)
        if self.world.observers.members:
            self.world.observers.pool_resized(blocks, now)


def events(rng: random.Random, work: Work, pool: int | None) -> list[tuple[int, int, int]]:
    """At the end the pool is as large as it ever was: whoever has grown in it fits again."""
    end = max(work.arrival) + 3_000 * MS
    often = rng.choice([0, 5, 40])

    def at() -> int:
        return rng.randrange(end // MS) * MS

    found = [(at(), rng.randrange(len(work.arrival)), rng.choice([-2, -1, -1, 1, 3])) for _ in range(often)]
    if pool is not None:
        found += [(at(), -1, max(1, pool * rng.randint(0, 150) // 100)) for _ in range(rng.choice([0, 2, 12]))]
        found.append((end, -1, max([pool, *[blocks for _, id, blocks in found if id < 0]])))
    return found


class Inbox:
    """One that also tells when there is trouble."""

    def __init__(self, inbox: Any, trouble: Trouble) -> None:
        self.inbox = inbox
        self.trouble = trouble

    @property
    def at(self) -> int:
        return int(min(self.inbox.at, self.trouble.at))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inbox, name)


class AmendingMachine(UnevenMachine):
    """answers: by job id, see Outcome; None if nobody learns them."""

    world: World
    whims: PlanWhims

    def __init__(self, latency: Any, link: Any, truth: Truth, inbox: Any, answers: list[list[int]] | None) -> None:
        super().__init__(latency, link, truth, inbox)
        self.answers = answers

    def looks(self, now: int) -> bool:
        return self.whims.at(now)

    def _even(self, work: list[tuple[Job, int]], most: int) -> int:
        """Whose count is put right before a commit ends in a plan of one iteration."""
        wrong = [job for job, _ in work if job.decoding and self.whims.wrong(job)]
        lasts = [self.truth.outputs[job.id] - job.generated - 1 for job in wrong]
        return max(1, min([super()._even(work, most), *lasts]))

    def run(self, plan: Plan) -> Outcome:
        scheduler = self.world.scheduler
        self.whims.plan = plan
        said = self.whims.otherwise(plan.now, list(plan.joined), list(plan.left), plan.prefill, scheduler.live)
        if said is not None:
            prefill, absent, lost, found = said
            scheduler.amend(plan, prefill=prefill, absent=absent, lost=lost, found=found)
            if self.world.observers.members:
                self.world.observers.amended(plan, plan.now)
        decoding = {job for job, _ in plan.work if job.decoding}
        outcome = super().run(plan)
        extra = dict(outcome.extra)
        for job in outcome.ended:
            if job in decoding:
                delta = self.whims.late(job, job.generated + outcome.iterations - 1, 1 + extra.get(job, 0))
                scheduler.correct(job, delta, plan.now)
                if self.world.observers.members:
                    self.world.observers.corrected(job, delta, plan.now)
        if self.answers is not None:
            outcome.answers = {job: self.answers[job.id] for job in outcome.ended}
        return outcome


def troubled(world: World, whims: PlanWhims, trouble: SchedulerTrouble) -> World:
    """The same world, whose machine is an AmendingMachine, with a driver that has trouble."""
    machine: Any = world.machine
    machine.world = world
    machine.whims = whims
    trouble.world = world
    inbox: Any = Inbox(world.inbox, trouble)
    world.inbox = machine.inbox = inbox
    drain = world.drain

    def troubled_drain(now: int) -> None:
        live: dict[int, Job] = {job.id: job for job in world.scheduler.live}
        if trouble.at <= now:
            trouble.tell(now, live, world.scheduler)
        drain(now)

    world.drain = troubled_drain  # type: ignore[method-assign]
    return world


def compare(
    name: str, seed: int, batching: str, memory: str, prefixes: bool, n: int = 24, tier: bool = False
) -> dict[str, int]:
    """All columns, and the order of the idle units, of macro-steps, single steps and the specification."""
    rng = random.Random(f"trouble {name} {seed} {batching} {memory} {prefixes}")
    coarse = rng.random() < 0.5
    slots = rng.choice([1, 2, 6, 16])
    work = workload(rng, n, coarse, slots, cancels=rng.random() < 0.4)
    unit = rng.choice(UNITS)
    if prefixes:
        programs(rng, work, unit)
    options = options_for(rng, work, slots, batching, memory, guard=rng.random() < 0.5)
    options["lookahead"] = rng.choice([0, 0, 0, 2])
    if prefixes:
        options |= {"prefix_cache": "on", "prefix_tokens": unit}
    if prefixes and tier:
        options["host_prefix_tokens"] = 16 * rng.choice([10, 100, 1000]) + rng.randint(0, 20)
    if options["residency"] == "recompute" and rng.random() < 0.5:
        options["max_resident"] = slots + rng.choice([0, 0, 1, 3, 20])
    if memory == "unlimited" and rng.random() < 0.3:
        options |= {"residency": "recompute", "max_resident": slots + rng.choice([0, 1, 3])}
    truth = Truth(rng.randrange(1000), work.output, 1 + options["lookahead"], rng.choice([0, 0, 0, 4, NEVER]))
    if rng.random() < (0.6 if name in GATES else 0.25):
        chained(rng, work)
    patience = rng.choice([2, 10_000])
    whims = rng.randrange(1 << 30), rng.choice([1, 2, 4, 16]), max(work.arrival) + rng.choice([0, 500, 3_000]) * MS
    told = events(rng, work, options["device_blocks"])
    most = NEVER if options["device_blocks"] is None else 16 * options["device_blocks"] - options["lookahead"]
    machine = hardware(coarse)
    case = f"{name} seed {seed} {'coarse' if coarse else 'fine'} {options}"

    def body(*facts: Any) -> Any:
        latency, carrier, _, inbox = facts
        return AmendingMachine(latency, carrier, truth, inbox, work.answers)

    ours: dict[str, Any] = {}
    policies = []
    idle = []
    body_whims = PlanWhims(*whims)
    counts: Counter[str] = Counter()
    for macro, watched in ((True, False), (False, True), (True, True)):
        world, scheduler = build(tuned(name, coarse, seed), work, machine, options, macro=macro, body=body)
        trouble = SchedulerTrouble(list(told), work.output, most)
        body_whims = PlanWhims(*whims)
        troubled(world, body_whims, trouble)
        policies.append(scheduler.policy)
        scheduler.holding.patience = patience
        found = records(audited(world, scheduler) if watched else world)
        counts["plans" if macro else "iterations"] = scheduler.plans
        ledger: Any = scheduler.ledger
        assert not scheduler.live and not scheduler.running and ledger.used == 0, case
        if prefixes:
            idle.append(ledger.tree.idle_ids())
        ours = ours or found
        for column, values in ours.items():
            assert np.array_equal(values, found[column], equal_nan=values.dtype.kind == "f"), f"{case}: {column}"
        counts |= {"corrected": trouble.corrected, "resized": trouble.resized}

    spec_whims = Whims(*whims)
    times = MachineTimes(machine, slots, max(work.prompt))
    spec = Spec(
        tuned(name, coarse, seed), times, machine, **options, otherwise=spec_whims.otherwise, late=spec_whims.late
    )
    spec.patience = patience
    loop = None if work.after is None else Loop(work)
    trouble = Trouble(list(told), work.output, most)
    theirs = simulate(spec, work.jobs(), work.output, work.cancels, truth.speak, work.answers, None, loop, trouble)
    wrong = differences(ours, theirs, machine.memory.block_bytes) + unalike([spec.policy, *policies])
    assert not wrong, f"{case}:\n" + "\n".join(wrong[:12])
    assert not prefixes or idle == [spec.idle] * 3, case
    assert spec_whims.count == body_whims.count, case
    return counts | spec_whims.count | {
        "jobs": len(theirs),
        "comparisons": len(theirs) * 19,
        "cut": sum(job.finish == "truncated" for job in theirs),
        "preemptions": int(ours["preemptions"].sum()),
        "cached": int(ours["cached_tokens"].sum()),
        "rows": "max_resident" in options,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("tests.sched.trouble", __doc__, compare))
