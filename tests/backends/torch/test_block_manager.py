"""Physical blocks follow the Plan: what a step reads is what its job wrote, or another one with the same content; and
counts are the Scheduler's own.
"""

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.backends.torch.block_manager import BlockManager
from fastserve.engine.backend import Step, Token, Traits
from fastserve.engine.clock import VirtualClock
from fastserve.engine.inbox import Inbox
from fastserve.engine.loop import Loop
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Request
from fastserve.hardware import Hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Recorder
from fastserve.sched.errors import RefusedError
from fastserve.sched.job import LEAVING, Job
from fastserve.sched.plan import Plan
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.units import Ids
from tests.backends.torch.block_audit import audit_blocks
from tests.backends.torch.stage import QuickLoads
from tests.sched.audit import audit
from tests.sched.sharing import programs
from tests.sched.worlds import COARSE, MS, NAMES, Work, scheduler_of, tuned

BLOCK = 4
BIGGEST = -(-(80 + 40) // BLOCK)
Mark = tuple[object, int]


class Passage:
    def __init__(self, lane: "Lane", source: list[int], target: list[int]) -> None:
        self.lane = lane
        self.source = source
        self.target = target
        self.ended = False

    def done(self) -> bool:
        if not self.ended and self.lane.rng.random() < 0.1:
            self.wait()
        return self.ended

    def wait(self) -> None:
        while not self.ended:
            self.lane.carry()


class Lane:
    """One direction. A copy takes its bytes at the last moment, so that whoever overwrote its source is found out."""

    def __init__(self, rng: random.Random, source: list[dict[int, Mark]], target: list[dict[int, Mark]]) -> None:
        self.rng = rng
        self.source = source
        self.target = target
        self.queue: deque[Passage] = deque()

    def send(self, source: list[int], target: list[int]) -> Passage:
        assert len(source) == len(target) == len(set(target))
        passage = Passage(self, source, target)
        self.queue.append(passage)
        return passage

    def reads(self, blocks: list[int]) -> bool:
        return any(not set(passage.source).isdisjoint(blocks) for passage in self.queue)

    def carry(self) -> None:
        passage = self.queue.popleft()
        for a, b in zip(passage.source, passage.target, strict=True):
            self.target[b] = dict(self.source[a])
        passage.ended = True


class Memory:
    """Both pools; a block maps offsets to (unit or job, position)."""

    def __init__(self, rng: random.Random, device: int, host: int) -> None:
        self.device: list[dict[int, Mark]] = [{} for _ in range(device)]
        self.host: list[dict[int, Mark]] = [{} for _ in range(host)]
        self.out = Lane(rng, self.device, self.host)
        self.back = Lane(rng, self.host, self.device)

    def copy_out(self, device_blocks: list[int], host_blocks: list[int]) -> Passage:
        assert not self.back.reads(host_blocks)
        return self.out.send(device_blocks, host_blocks)

    def copy_in(self, host_blocks: list[int], device_blocks: list[int]) -> Passage:
        assert not self.out.reads(device_blocks)
        return self.back.send(host_blocks, device_blocks)


class Marker:
    """A body whose KV is marks: it writes what it computes and reads all that a step would attend to.

    answers: by job id, of the units that prompt and answer fill beyond; None where prefixes are not cached.
    """

    info = ModelInfo("marks", None, 200, 257, frozenset())
    traits = Traits()

    def __init__(
        self, rng: random.Random, scheduler: Scheduler, device: int, host: int, unit: int | None = None,
        answers: list[list[int]] | None = None,
    ) -> None:  # fmt: skip
        self.scheduler = scheduler
        self.memory = Memory(rng, device, host)
        self.blocks = BlockManager(device, host, BLOCK, self.memory, unit)
        self.answers = answers
        self.found = self.evicted = self.loaded = 0
        self.clock = VirtualClock()
        self.preemptions = 0
        self.rejoined: set[Job] = set()  # while they were copied out: that copy may go on reading what is theirs
        self.rng = rng
        self.fails = 0.0

    def hardware(self) -> Hardware:
        return COARSE

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        pass

    def answer(self, job: Job, ids: Ids) -> None:
        self.blocks.answer(job, ids)

    def forget(self, job: Job) -> None:
        self.blocks.forget(job)

    def reset(self) -> None:
        self.blocks.reset()

    def close(self) -> None:
        self.blocks.reset()

    def mark(self, job: Job, position: int) -> Mark:
        """What is written at a position: equal content, equal marks."""
        at = position // self.blocks.unit
        answer = () if self.answers is None else self.answers[job.id]
        ids = [*job.ids, *answer]
        return (ids[at] if at < len(ids) else f"job {job.id}", position)

    def run(self, plan: Plan) -> Step:
        audit_blocks(self.blocks, self.scheduler)
        self.found += len(plan.found)
        self.evicted += sum([end - start for _, start, end in plan.evict])
        self.loaded += len([copy for copy in plan.load if copy.units is not None])
        self.preemptions += len(plan.left)
        self.rejoined.update([job for job in plan.joined if job.place is LEAVING])
        self.blocks.follow(plan)
        if self.rng.random() < self.fails:
            raise MemoryError("as asked")
        ledger = self.scheduler.ledger
        for job in plan.members:
            assert len(self.blocks.table(job)) == ledger.need(job)
        speakers = []
        shared = {block for unit in self.blocks.units.values() for block in unit}
        for job, tokens in plan.work:
            end = job.prompt + job.generated if job.decoding else plan.first(job) + tokens
            first = end - tokens
            table = self.blocks.table(job)
            written = list(table[first // BLOCK : -(-end // BLOCK)])
            assert job in self.rejoined or not self.memory.out.reads(written)
            assert written and not set(written) & shared  # what is shared is never written
            for position in range(first, end):
                self.memory.device[table[position // BLOCK]][position % BLOCK] = self.mark(job, position)
            read = [self.memory.device[table[p // BLOCK]].get(p % BLOCK) for p in range(end)]
            assert read == [self.mark(job, position) for position in range(end)]
            if end == job.prompt + job.generated:
                speakers.append(job)
        self.blocks.computed(plan)
        results = [(job, (Token(65),)) for job in speakers]
        return Step(results, 0, self.blocks.landed(), service=MS * (1 + len(plan.work) // 8))


def crowd(rng: random.Random) -> Work:
    """Fifty jobs within a few times what one of them takes, some of which are cancelled."""
    prompt = [min(80, 1 + int(rng.expovariate(1 / 20))) for _ in range(50)]
    output = [min(40, 1 + int(rng.expovariate(1 / 12))) for _ in range(50)]
    arrival = sorted([rng.randrange(200) * MS for _ in range(50)])
    cancels = [(arrival[i] + rng.randrange(150) * MS, i) for i in range(50) if rng.random() < 0.2]
    return Work(arrival, prompt, output, 40, cancels)


class Told:
    """In place of UnitNames: answers are called what the script says."""

    unit = 1 << 30

    def __init__(self, answers: list[list[int]]) -> None:
        self.answers = answers

    def of(self, rest: Any, ids: Any, root: bytes) -> list[int]:
        return self.answers[int.from_bytes(root, "little")]


def play(
    seed: int, name: str, options: dict[str, object], fails: float = 0.0, shares: bool = False, tier: int = 0
) -> Marker:
    """tier: units on the host."""
    rng = random.Random(seed)
    work = crowd(rng)
    unit = None
    if shares:
        unit = rng.choice([BLOCK, BLOCK, 2 * BLOCK])
        programs(rng, work, unit, longest=80)
        options = options | {"prefix_cache": "on", "prefix_tokens": unit}
        options |= {"host_prefix_tokens": tier * unit}
    times = (QuickLoads if tier else MachineTimes)(COARSE, int(str(options["max_batch"])), max(work.prompt))
    scheduler = scheduler_of(tuned(name, True), times, macro=False, block_tokens=BLOCK, **options)  # type: ignore[arg-type]
    device, host = int(str(options["device_blocks"])), int(str(options["host_blocks"])) + tier * (unit or 0) // BLOCK
    marker = Marker(rng, scheduler, device, host, unit, work.answers if shares else None)
    marker.fails = fails
    inbox = Inbox()
    told: Any = Told(work.answers) if work.answers is not None else None
    loop = Loop(scheduler, marker, Recorder(), marker.clock, inbox, names=told)
    requests = [
        Request(job, [1] * job.prompt, SamplingParams(stop_after=work.output[job.id]).resolved({}), 0, None,
                root=job.id.to_bytes(8, "little"))
        for job in work.jobs()
    ]  # fmt: skip
    for request in requests:
        try:
            scheduler.check(request.job)
        except RefusedError:
            continue
        inbox.put(request)
    for at, id in work.cancels:
        inbox.cancel(requests[id], "cancelled", at)
    while not inbox.empty or scheduler.live:
        if loop.turn():
            audit(scheduler)
            if shares and rng.random() < 0.02:
                loop.reset_prefix_cache()
            audit_blocks(marker.blocks, scheduler)
        else:
            loop.now = max(loop.now, min(inbox.next(), scheduler.opens_at()))
            marker.clock.sleep_until(loop.now)
            loop.tick(loop.now)
    assert loop.counters["failed_steps"] == 0  # an assertion of the Marker fails its step; the log has it
    if not fails:
        assert len(marker.blocks.device.free) + marker.blocks.idle() == device
    marker.close()
    marker.blocks.device.free.sort()
    assert marker.blocks.device.free == list(range(device))
    assert len(marker.blocks.host.free) == host
    return marker


@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(NAMES),
    batching=st.sampled_from(["mixed", "chunked", "prefill-first"]),
    residency=st.sampled_from(["recompute", "reactive", "proactive"]),
    spare=st.sampled_from([0, 5, 25]),
    host=st.sampled_from([0, 10, 40, 400]),
    visit=st.sampled_from([0, 2]),
    reserve=st.sampled_from([0, 3, 12]),
    fails=st.sampled_from([0.0, 0.0, 0.02]),
    shares=st.booleans(),
    tier=st.sampled_from([0, 5, 40]),
)
@settings(max_examples=60)
def test_a_step_reads_what_its_job_wrote(
    seed: int,
    name: str,
    batching: str,
    residency: str,
    spare: int,
    host: int,
    visit: int,
    reserve: int,
    fails: float,
    shares: bool,
    tier: int,
) -> None:
    options: dict[str, object] = {
        "max_batch": 6, "batching": batching, "token_budget": 64 if batching == "chunked" else None,
        "device_blocks": BIGGEST + spare, "host_blocks": host, "residency": residency, "visit": visit,
        "kv_reserve": reserve,
    }  # fmt: skip
    play(seed, name, options, fails, shares, tier if shares else 0)


@pytest.mark.parametrize("batching", ["chunked", "prefill-first"])
@pytest.mark.parametrize("residency", ["reactive", "proactive"])
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("name", ["chaos", "mlfq", "sj-mlfq"])
def test_short_memory(name: str, shares: bool, residency: str, batching: str) -> None:
    """Where hypothesis looks too rarely: jobs leave with a block to spare, rejoin while they leave, go while copied."""
    for seed in range(4):
        options: dict[str, object] = {
            "max_batch": 6, "batching": batching, "token_budget": 64 if batching == "chunked" else None,
            "device_blocks": BIGGEST + 5, "host_blocks": 60, "residency": residency, "visit": 0,
            "kv_reserve": (0, 3, 12, 0)[seed],
        }  # fmt: skip
        play(seed, name, options, shares=shares)


@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
def test_the_test_preempts(residency: str) -> None:
    options: dict[str, object] = {
        "max_batch": 6, "token_budget": 64, "device_blocks": BIGGEST + 4, "host_blocks": 60, "residency": residency,
        "visit": 0,
    }  # fmt: skip
    assert sum([play(seed, "mlfq", options).preemptions for seed in range(4)]) > 4 * 40


def test_who_joins_while_nothing_of_it_is_left_to_fetch() -> None:
    """Its copy has no blocks, for others hold all of its KV on the device; the plan waits for it all the same."""
    options: dict[str, object] = {
        "max_batch": 6, "batching": "chunked", "token_budget": 64, "device_blocks": 55, "host_blocks": 40,
        "residency": "proactive", "visit": 0, "kv_reserve": 12,
    }  # fmt: skip
    play(100243, "rounds", options, shares=True)


@pytest.mark.parametrize("tier", [0, 40])
@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
def test_the_test_shares(residency: str, tier: int) -> None:
    """What is found, and what goes to make room, and comes back as copies of what is not on the device."""
    options: dict[str, object] = {
        "max_batch": 6, "token_budget": 64, "device_blocks": BIGGEST + 4, "host_blocks": 60, "residency": residency,
        "visit": 0,
    }  # fmt: skip
    markers = [play(seed, "mlfq", options, shares=True, tier=tier) for seed in range(4)]
    assert sum([marker.loaded for marker in markers]) > 10 or not tier
    assert min([marker.found for marker in markers]) > 20
    assert min([marker.evicted for marker in markers]) > 20
    assert sum([marker.preemptions for marker in markers]) > 4 * 40
