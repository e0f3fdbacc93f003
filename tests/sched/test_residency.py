"""Where KV lives that no running job needs at once: what each strategy moves, and in which order."""

from __future__ import annotations

import pytest

from fastserve.policies.fcfs import Fcfs
from fastserve.sched.eviction import ORDERS
from fastserve.sched.job import DEVICE, Job, Meter
from fastserve.sched.kv import Ledger
from fastserve.sched.plan import Copy
from fastserve.sched.ranking import Ranking
from fastserve.sched.residency import RESIDENCIES, Residency


def room(
    name: str, host: int = 100, evict: str = "reverse", reserve: int = 0, blocks: int = 10
) -> tuple[Residency, Ledger]:
    residency = RESIDENCIES[name](ORDERS[evict](), reserve, 5)
    ledger = Ledger(blocks, host if residency.swaps else 0, 16, False)
    residency.bind(ledger, Ranking(Fcfs(), {}), {})
    return residency, ledger


def parked(ledger: Ledger, id: int, blocks: int, last: int = 0) -> Job:
    job = Job(id, id, 16 * blocks)
    job.meter = Meter(16)
    job.place = DEVICE
    job.last = last
    ledger.leave(job)
    return job


def ids(copies: list[Copy]) -> list[int]:
    return [copy.job.id for copy in copies]


def test_nothing_moves_while_there_is_room() -> None:
    for name in RESIDENCIES:
        residency, ledger = room(name)
        parked(ledger, 0, 4)
        assert residency.make_room((), (), 10 - ledger.cold) >= 0 and residency.moves is None


@pytest.mark.parametrize("name", ["recompute", "defer"])
def test_without_a_host_the_worst_rank_is_forgotten(name: str) -> None:
    residency, ledger = room(name)
    jobs = [parked(ledger, i, 3) for i in range(3)]
    residency.make_room((), (), 5 - ledger.cold)
    assert residency.moves is not None
    assert residency.moves.drop == [jobs[2], jobs[1]] and not residency.moves.park


def test_reactive_copies_out_and_the_step_waits_for_it() -> None:
    residency, ledger = room("reactive")
    for i in range(3):
        parked(ledger, i, 3)
    residency.make_room((), (), 8 - ledger.cold)
    moves = residency.moves
    assert moves is not None and ids(moves.park) == [2] and moves.clear == moves.park and not moves.drop


def test_what_the_host_cannot_hold_is_forgotten() -> None:
    residency, ledger = room("reactive", host=2)
    for i in range(3):
        parked(ledger, i, 3)
    residency.make_room((), (), 8 - ledger.cold)
    moves = residency.moves
    assert moves is not None and [job.id for job in moves.drop] == [2] and not moves.park


def test_proactive_parks_ahead_of_need_and_nobody_waits() -> None:
    residency, ledger = room("proactive", reserve=3)
    parked(ledger, 0, 4)
    parked(ledger, 1, 4)
    residency.make_room((), (), 10 - ledger.cold)  # two blocks are idle, three are wanted
    moves = residency.moves
    assert moves is not None and ids(moves.park) == [1] and not moves.clear


def test_proactive_fetches_back_while_there_is_room_beyond_the_reserve() -> None:
    residency, ledger = room("proactive", reserve=3)
    job = parked(ledger, 0, 4)
    copy = Copy(job, 4, True)
    ledger.start(copy)
    ledger.finish(copy)
    residency.ranking.wait = [(0, 0, 0, job)]
    residency.make_room((), (), 6 - ledger.cold)
    assert residency.moves is None
    residency.make_room((), (), 7 - ledger.cold)
    assert residency.moves is not None and ids(residency.moves.prefetch) == [0]


def test_who_joins_from_the_host_is_loaded() -> None:
    residency, ledger = room("reactive")
    job = parked(ledger, 0, 4)
    copy = Copy(job, 4, True)
    ledger.start(copy)
    ledger.finish(copy)
    residency.make_room([job], (), 6 - ledger.cold)
    assert residency.moves is not None and ids(residency.moves.load) == [0]


def test_lru_ignores_ranks() -> None:
    residency, ledger = room("recompute", evict="lru")
    first, second = parked(ledger, 0, 3, last=5), parked(ledger, 1, 3, last=9)
    residency.make_room((), (), 5 - ledger.cold)
    assert residency.moves is not None and residency.moves.drop == [first] and second.place is DEVICE
