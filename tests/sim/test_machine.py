"""The modelled machine: as many iterations as plan and truth allow; picoseconds inside, whole nanoseconds outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastserve.hardware import Link as LinkModel
from fastserve.sched.job import DEVICE, NEVER, Job, Meter
from fastserve.sched.plan import Plan
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import Alone, ModelledMachine
from tests.sched.worlds import Coarse


class Third(Coarse):
    """A decode takes 1 ns and a third."""

    def step(self, batch: int) -> int:
        return 1333

    def iteration_ps(self, batch: int, context: int, chunks: Sequence[tuple[int, int]]) -> int:
        return 1333 * bool(batch) + sum([n * 1000 for _, n in chunks])


def machine(outputs: Sequence[int], arrivals: Sequence[int] = ()) -> ModelledMachine:
    jobs: Iterator[Job] = iter([Job(i, at, 1) for i, at in enumerate(arrivals)])
    return ModelledMachine(Third(), Link(LinkModel(), 1), outputs, Inbox(jobs))


def decoding(id: int, generated: int = 1) -> Job:
    job = Job(id, 0, 4)
    job.meter = Meter(16)
    job.running = job.rolling = True
    job.place = DEVICE
    job.tokens_base = generated
    return job


def plan(now: int, joined: Sequence[Job] = (), batch: int = 1, iterations: int = NEVER, **more: int) -> Plan:
    return Plan(now, {}, joined=joined, batch=batch, context=5, iterations=iterations, **more)


def test_a_job_ends_with_its_last_token_and_not_before() -> None:
    body = machine([10, 6])
    first, second = decoding(0), decoding(1)
    outcome = body.run(plan(0, [first, second], batch=2))
    assert outcome.iterations == 5 and outcome.ended == [second]
    outcome = body.run(plan(outcome.service, batch=1))
    assert outcome.iterations == 4 and outcome.ended == [first]


def test_it_stops_at_each_bound_that_comes_first() -> None:
    for more, arrivals, k in (
        ({"service": 10}, (), 8), ({"until": 105}, (), 4), ({}, (103,), 3), ({"service": 10**9}, (200,), 49),
    ):  # fmt: skip
        outcome = machine([50], arrivals).run(plan(100, [decoding(0)], **more))
        assert outcome.iterations == k, (more, arrivals)


def test_picoseconds_are_carried_into_a_plan_that_follows_at_once_and_no_other() -> None:
    body = machine([1000])
    now, services = 0, []
    for i in range(6):
        outcome = body.run(plan(now, [decoding(0)] if i == 0 else [], iterations=1))
        services.append(outcome.service)
        now += outcome.service
    assert services == [1, 1, 1, 2, 1, 1] and sum(services) == 6 * 1333 // 1000
    assert body.run(plan(now + 100, iterations=1)).service == 1 and body.rest == 333


def test_far_away_nothing_overflows() -> None:
    body = machine([1 << 40])
    outcome = body.run(plan(1 << 59, [decoding(0)]))
    assert outcome.iterations == (1 << 40) - 1 and outcome.service == ((1 << 40) - 1) * 1333 // 1000


def test_a_lone_prefill_goes_on_chunk_by_chunk_and_its_end_yields_a_token() -> None:
    body = machine([1])
    job = Job(0, 0, 9)
    outcome = body.run(Plan(0, {}, joined=[job], prefill=[(job, 4)], iterations=2))
    assert (outcome.iterations, outcome.service, outcome.first, outcome.gap, list(outcome.ended)) == (2, 8, 4, 4, [])
    job.prefilled = 8
    assert body.run(Plan(8, {}, prefill=[(job, 1)])).ended == [job]


def test_who_left_or_is_gone_does_not_end() -> None:
    body = machine([3, 3])
    first, second = decoding(0), decoding(1)
    body.run(plan(0, [first, second], batch=2, iterations=1))
    away = Plan(1, {}, gone=[first], left=[second], batch=1, context=5, iterations=1)
    assert list(body.run(away).ended) == []


def test_alone_is_the_empty_machine_and_keeps_prefills() -> None:
    latency = Third()
    alone = Alone(latency, 4)
    for prompt, output in ((9, 1), (9, 5), (9, 5), (3, 2)):
        assert alone.ps(prompt, output) == latency.alone_ps(prompt, output, 4)
    assert set(alone.prefills) == {9, 3}
