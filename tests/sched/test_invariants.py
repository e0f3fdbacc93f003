"""Whatever the body does within the contract, no job is lost, run twice or in two places, and no block is.

The body is live-like: iterations of any length, stops anywhere within the plan's bounds, copies that land when they
like but in order per direction. It keeps its own books of tokens and blocks, from the plans alone, and holds the
Scheduler to them. An uneven one drafts as many tokens as the lookahead allows, writes them all, and keeps some.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastserve.hardware.machine_times import MachineTimes
from fastserve.sched.errors import RefusedError
from fastserve.sched.job import NEVER, Copy, Job
from fastserve.sched.kv import Ledger
from fastserve.sched.link import carry
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.scheduler import Scheduler
from tests.sched.audit import audit
from tests.sched.test_specification import fields
from tests.sched.worlds import COARSE, NAMES, scheduler_of, tuned

MS = 1_000_000
BATCHINGS = ("chunked", "mixed", "prefill-first", "static")
MEMORIES = ("unlimited", "recompute", "reactive", "proactive", "defer")


class Body:
    """Blocks and tokens as a device would hold them. outputs: true tokens by job id. device, host: blocks.

    uneven: whether some of its iterations are.
    """

    def __init__(
        self, rng: random.Random, outputs: list[int], ledger: Ledger, lookahead: int = 0, uneven: bool = False
    ) -> None:
        self.rng = rng
        self.outputs = outputs
        self.block, self.device, self.host = ledger.block, ledger.blocks, ledger.host
        self.reserved = ledger.need
        self.lookahead, self.uneven = lookahead, uneven
        self.uneven_steps = 0
        self.extra: list[tuple[Job, int]] = []  # of this iteration
        self.members: set[Job] = set()
        self.cached: dict[Job, int] = {}  # tokens in its KV
        self.tokens: dict[Job, int] = {}  # it has put out
        self.on_device: dict[Job, int] = {}  # blocks of KV of jobs that do not run, copies on their way out included
        self.on_host: dict[Job, int] = {}  # copies on their way in included
        self.queues: dict[bool, deque[Copy]] = {True: deque(), False: deque()}  # by direction, in flight
        self.orphans: set[Copy] = set()
        self.landed: list[Copy] = []  # by the current plan's order
        self.most_on_host = 0

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block)

    def cold(self) -> int:
        """Device blocks that no member uses: parked KV, and room that copies in will fill."""
        return sum(self.on_device.values()) + sum(copy.blocks for copy in self.queues[False])

    def hosted(self) -> int:
        return sum(self.on_host.values()) + sum(copy.blocks for copy in self.queues[True])

    def forget(self, job: Job) -> None:
        """It has gone. What is being copied still fills its destination."""
        self.members.discard(job)
        for books in (self.cached, self.tokens, self.on_device, self.on_host):
            books.pop(job, None)
        self.orphans.update(copy for queue in self.queues.values() for copy in queue if copy.job is job)

    def land(self, copy: Copy) -> None:
        queue = self.queues[copy.out]
        assert queue.popleft() is copy
        if copy in self.orphans:
            self.orphans.remove(copy)
        elif copy.out:
            del self.on_device[copy.job]
            self.on_host[copy.job] = copy.blocks
        else:
            del self.on_host[copy.job]
            self.on_device[copy.job] = copy.blocks

    def copies(self, plan: Plan, landed: list[Copy]) -> None:
        """Everything before the step: what leaves, what must land, what may."""
        for job in plan.left:
            assert job in self.members
            self.members.remove(job)
            self.on_device[job] = self.blocks(self.cached[job])
        for job in plan.joined:  # what a copy out carries of them is of no use any more
            self.orphans.update(copy for copy in self.queues[True] if copy.job is job)
        for job in plan.drop:
            assert all(copy in self.orphans for copy in self.queues[True] if copy.job is job)
            del self.on_device[job]
            self.cached[job] = 0
        for copy in plan.clear:
            if not copy.out:  # a prefetch gives way: its KV is still on the host
                self.queues[False].remove(copy)
                self.orphans.discard(copy)
                landed.append(copy)
        self.landed = landed
        carry(plan, self)
        for job in plan.joined:
            assert job not in self.members and job not in self.on_host, "its KV is in two places"
            held = self.on_device.pop(job, 0)
            assert held == self.blocks(self.cached.setdefault(job, 0))
            assert self.cached[job] in (0, job.prompt + self.tokens.setdefault(job, 0) - 1)
            self.members.add(job)

    def send(self, copy: Copy) -> None:
        """For carry(): what it copies is where it says."""
        held = self.on_device if copy.out else self.on_host
        assert copy not in self.queues[copy.out]
        assert copy.blocks == held[copy.job] == self.blocks(self.cached[copy.job])
        self.queues[copy.out].append(copy)

    def wait(self, copies: Sequence[Copy]) -> None:
        """For carry(): copies land in order, per direction."""
        for copy in copies:
            while copy in self.queues[copy.out]:
                self.landed.append(self.queues[copy.out][0])
                self.land(self.landed[-1])

    def step(self, plan: Plan, work: list[tuple[Job, int]], uneven: bool) -> list[Job]:
        """One iteration. Returns who has its last token, or will get none."""
        need = sum(self.blocks(job.prompt + self.tokens[job]) for job in self.members)
        assert need + self.cold() <= self.device, "the device has overflowed"
        assert self.hosted() <= self.host, "the host has overflowed"
        self.most_on_host = max(self.most_on_host, self.hosted())
        written = {job: self.blocks(self.cached[job]) for job in self.members}
        ended = []
        for job, tokens in work:
            self.cached[job] += tokens
            whole = job.prompt + self.tokens[job]
            assert self.cached[job] <= whole
            if self.cached[job] == whole:
                got = self.speak(job, uneven)
                drafts = self.lookahead if uneven else 0
                written[job] = self.blocks(whole + drafts)
                self.tokens[job] += got
                self.cached[job] += got - 1  # what was drafted in vain is not kept
                if self.tokens[job] == self.outputs[job.id] and (got == 0 or not uneven or self.rng.random() < 0.7):
                    ended.append(job)
            else:
                written[job] = self.blocks(self.cached[job])
        if uneven:
            assert all(blocks <= self.reserved(job) for job, blocks in written.items()), "written and not reserved"
        assert sum(written.values()) + self.cold() <= self.device, "the device has overflowed with drafts"
        return ended

    def speak(self, job: Job, uneven: bool) -> int:
        """Its tokens of this iteration."""
        left = self.outputs[job.id] - self.tokens[job]
        got = min(left, self.rng.choice([0, 1, self.rng.randint(0, 1 + self.lookahead)]) if uneven else 1)
        if got != 1 or (uneven and self.rng.random() < 0.2):
            self.extra.append((job, got - 1))
        return got

    def run(self, plan: Plan) -> Outcome:
        rng = self.rng
        for job in plan.gone:
            self.forget(job)
        landed: list[Copy] = []
        self.copies(plan, landed)
        assert set(plan.members) == self.members and len(plan.members) == len(self.members)
        work = plan.work
        assert len({job for job, _ in work}) == len(work) and {job for job, _ in work} <= self.members
        assert plan.batch == len(work) - len(plan.prefill)
        for job, tokens in work[len(plan.prefill) :]:
            assert tokens == 1 and self.cached[job] == job.prompt + self.tokens[job] - 1, "it decodes without its KV"
        stall = rng.choice([0, rng.randint(1, 30 * MS)]) if plan.load or plan.clear else 0
        service = k = 0
        uneven = self.uneven and rng.random() < 0.7
        finishing = any(self.tokens[job] == self.outputs[job.id] for job, _ in work)  # it ends without a token
        stop = 1 if uneven or finishing else rng.choice([1, 3, 1000])
        self.uneven_steps += uneven
        self.extra = []
        ended: list[Job] = []
        while not ended and k < min(plan.iterations, stop):
            if k and (service >= plan.service or plan.now + stall + service >= plan.until):
                break
            ended = self.step(plan, work, uneven)
            service += rng.choice([MS, 2 * MS, rng.randint(1, 9 * MS)])
            k += 1
        for queue in self.queues.values():
            while queue and rng.random() < 0.4:
                landed.append(queue[0])
                self.land(queue[0])
        for job in ended:
            self.forget(job)
        rng.shuffle(ended)
        return Outcome(k, service, stall, ended, landed, extra=self.extra)


class Run:
    """The live driver's loop over a list of jobs: (arrival ms, prompt, output, None or cancelled after so many ms)."""

    def __init__(
        self,
        name: str,
        rng: random.Random,
        jobs: list[tuple[int, int, int, int | None]],
        options: dict[str, Any],
        uneven: bool = False,
    ) -> None:
        limit = max(output for _, _, output, _ in jobs)
        self.jobs = [
            Job(i, at * MS, prompt, limit=limit, client=f"c{i % 3}", program=f"p{i // 4}", priority=i % 3, guess=output)
            for i, (at, prompt, output, _) in enumerate(sorted(jobs, key=lambda job: job[0]))
        ]
        ordered = sorted(jobs, key=lambda job: job[0])
        self.outputs = [output for _, _, output, _ in ordered]
        self.cancels = [(at + after, i) for i, (at, _, _, after) in enumerate(ordered) if after is not None]
        times = MachineTimes(COARSE, options["max_batch"], max(prompt for _, prompt, _, _ in jobs))
        self.scheduler = scheduler_of(tuned(name, True), times, **options)
        self.body = Body(rng, self.outputs, self.scheduler.ledger, options["lookahead"], uneven)
        self.ended: list[Job] = []
        self.refused: list[Job] = []
        self.submitted = 0

    def drain(self, now: int) -> None:
        scheduler = self.scheduler
        while self.submitted < len(self.jobs) and self.jobs[self.submitted].arrival <= now:
            job = self.jobs[self.submitted]
            self.submitted += 1
            most = job.prompt + (job.limit if scheduler.ledger.whole else 0) + self.body.lookahead
            if self.body.blocks(most) > self.body.device:
                with pytest.raises(RefusedError, match=f"job {job.id}"):
                    scheduler.submit(job, now)
                self.refused.append(job)
            else:
                scheduler.submit(job, now)
        for after, id in list(self.cancels):
            job = self.jobs[id]
            if after * MS <= now and id < self.submitted:
                self.cancels.remove((after, id))
                if job in scheduler.live:
                    scheduler.cancel(job, now)
                    self.ended.append(job)

    def plan(self, now: int) -> Plan | None:
        """Asked twice: plan() changes nothing."""
        scheduler = self.scheduler
        audit(scheduler)
        plan = scheduler.plan(now)
        again = scheduler.plan(now)
        audit(scheduler)
        assert (plan is None) == (again is None)
        if plan is not None and again is not None:
            assert fields(plan) == fields(again), "plan() is not pure"
        return plan

    def loop(self, most: int = 20_000) -> None:
        scheduler = self.scheduler
        body = self.body
        now = 0
        for _ in range(most):
            self.drain(now)
            plan = self.plan(now)
            if plan is None:
                coming = self.jobs[self.submitted].arrival if self.submitted < len(self.jobs) else NEVER
                if scheduler.live:
                    coming = min(coming, scheduler.opens_at())
                if coming == NEVER:
                    break
                later = max(now, coming)
                rung = scheduler.tick(later)
                assert later > now or rung, "jobs wait and the Scheduler asks to be asked again at once"
                now = later
                continue
            outcome = body.run(plan)
            now += outcome.stall + outcome.service
            ended = scheduler.commit(plan, outcome, now)
            assert ended == sorted(ended, key=lambda job: (job.arrival, job.id))
            self.ended += ended
            self.compare(scheduler)
        else:
            raise AssertionError(f"{len(scheduler.live)} jobs still live after {most} plans")

    def compare(self, scheduler: Scheduler) -> None:
        """The Scheduler's books and the body's. Who was truncated stays with the body until the next plan."""
        body = self.body
        ledger = scheduler.ledger
        cut = {job for job in scheduler.gone if job.finish == "truncated"}
        assert set(scheduler.running) == body.members - cut
        assert (ledger.cold, ledger.hosted) == (body.cold(), body.hosted())
        assert len(ledger.copies) == sum(map(len, body.queues.values()))
        for job in body.members:
            assert job.generated == body.tokens[job]
            assert not job.decoding or body.cached[job] == job.prompt + job.generated - 1


def check(name: str, batching: str, memory: str, draw: st.DataObject, uneven: bool = False) -> Run:
    slots = draw.draw(st.integers(1, 5), "slots")
    size = st.integers(1, 40)
    job = st.tuples(st.integers(0, 150), size, st.integers(1, 25), st.none() | st.none() | st.integers(0, 300))
    jobs = draw.draw(st.lists(job, min_size=1, max_size=14), "jobs (ms, prompt, output, cancelled after ms)")
    options: dict[str, Any] = {
        "max_batch": slots,
        "batching": batching,
        "token_budget": draw.draw(st.integers(slots + 1, 40), "budget"),
        "static_timeout": draw.draw(st.sampled_from([0, 20 * MS])),
        "block_tokens": draw.draw(st.sampled_from([1, 4, 16]), "block"),
        "residency": "proactive" if memory == "unlimited" else memory,
        "visit": draw.draw(st.sampled_from([0, 1, 3]), "visit"),
        "kv_reserve": draw.draw(st.integers(0, 6), "reserve"),
        "prefetch_quota": draw.draw(st.integers(0, 4), "quota"),
        "evict": draw.draw(st.sampled_from(["policy", "reverse", "lru"]), "evict"),
        "whole_context": draw.draw(st.sampled_from([False, False, False, True]), "whole"),
        "skip_misfits": draw.draw(st.booleans(), "skip"),
        "prefill_guard": draw.draw(st.sampled_from([0.0, 0.0, 0.3]), "prefill guard"),
        "charging": draw.draw(st.sampled_from(["iteration", "iteration", "tokens"]), "charging"),
        "macro": draw.draw(st.booleans(), "macro"),
        "lookahead": draw.draw(st.sampled_from([0, 1, 4] if uneven else [0, 0, 0, 3]), "lookahead"),
    }
    tokens = draw.draw(st.integers(20, 120), "device tokens")
    options["device_blocks"] = None if memory == "unlimited" else max(1, tokens // options["block_tokens"])
    options["host_blocks"] = draw.draw(st.none() | st.integers(0, 100 // options["block_tokens"]), "host blocks")
    rng = random.Random(draw.draw(st.integers(0, 1 << 32), "whims"))
    run = Run(name, rng, jobs, options, uneven)
    run.loop()
    end(run)
    return run


def end(run: Run) -> None:
    """Every job has ended, once, for a reason, with the tokens that are its due; nothing is held but by copies."""
    scheduler = run.scheduler
    assert not scheduler.live and not scheduler.running and run.submitted == len(run.jobs)
    assert sorted(job.id for job in run.ended + run.refused) == list(range(len(run.jobs)))
    for job in run.ended:
        due = run.outputs[job.id]
        if job.finish == "stop":
            assert job.generated == due
        elif job.finish == "truncated":
            most = job.prompt + job.generated + run.body.lookahead
            # An uneven body may end a job an iteration after its last token.
            assert job.generated < due + run.body.uneven and run.body.blocks(most) > run.body.device
        else:
            assert job.finish == "cancelled" and job.generated <= due
    ledger = scheduler.ledger
    assert ledger.used == 0 and all(copy.orphan for copy in ledger.copies)
    assert ledger.cold + ledger.hosted == sum(copy.blocks for copy in ledger.copies)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(draw=st.data())
def test_nothing_is_lost(name: str, batching: str, memory: str, draw: st.DataObject) -> None:
    check(name, batching, memory, draw)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(draw=st.data())
def test_nothing_is_lost_in_uneven_iterations(name: str, batching: str, memory: str, draw: st.DataObject) -> None:
    check(name, batching, memory, draw, uneven=True)
