"""Which job's KV is where, by the engine's own plans, on a context of this test's own; llama.cpp is not needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastserve.backends.llamacpp.residents import PATIENCE, Residents
from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine import Engine
from fastserve.engine.backend import Step, Traits, Wanted
from fastserve.engine.clock import VirtualClock
from fastserve.engine.config import EngineConfig
from fastserve.hardware import Hardware
from fastserve.sched.job import Copy, Job
from fastserve.sched.plan import Moves, Plan
from tests.backends.conformance import Turmoil, Turns, all_of, at_once, params, prompts


class Fake:
    """Sequences of positions: what a step writes must follow what is there."""

    def __init__(self, sequences: int) -> None:
        self.sequences = sequences
        self.rows: list[list[int]] = [[] for _ in range(sequences)]

    def take_out(self, sequence: int) -> Any:
        state, self.rows[sequence] = np.array(self.rows[sequence], np.int64).view(np.uint8), []
        return state

    def put_in(self, sequence: int, state: Any) -> None:
        assert not self.rows[sequence]
        self.rows[sequence] = state.view(np.int64).tolist()

    def remove(self, sequence: int, first: int = 0) -> None:
        del self.rows[sequence][first:]

    def clear(self) -> None:
        self.rows = [[] for _ in range(self.sequences)]


class Kept(ScriptedBackend):
    """A scripted machine whose jobs have KV. sequences: set by the test."""

    sequences = 4
    traits = Traits(swaps=True, exact="always", modelled=True)

    def __init__(self, model: Any = "", wanted: Wanted | None = None, hardware: Hardware | None = None) -> None:
        super().__init__(model, wanted, hardware)
        self.context = Fake(self.sequences)
        self.residents = Residents(self.context)
        self.tokens_there = 0

    def run(self, plan: Plan) -> Step:
        it = self.residents
        it.follow(plan)
        for job, tokens in plan.work:
            row = self.context.rows[it.rows[job]]
            first = job.prompt + job.generated - 1 if job.decoding else plan.first(job)
            assert row == list(range(first)), f"job {job.id} goes on at {first}"
            row.extend(range(first, first + tokens))
        assert len({*it.rows.values(), *it.free}) == len(it.rows) + len(it.free) == self.sequences
        assert not (it.rows.keys() & it.aside.keys() or it.rows.keys() & it.away.keys())
        assert all(not self.context.rows[row] for row in it.free)
        self.landed = it.landed()
        return super().run(plan)

    def forget(self, job: Job) -> None:
        super().forget(job)
        self.residents.forget(job)

    def held(self) -> dict[str, int]:
        it = self.residents
        return super().held() | {
            "rows": len(it.rows),
            "aside": len(it.aside),
            "away": len(it.away),
            "left": len(it._left),
        }


@pytest.mark.parametrize("policy", [Turns, Turmoil])
@pytest.mark.parametrize("kv_tokens", [160, 4096])
def test_every_job_goes_on_where_it_was(policy: Any, kv_tokens: int) -> None:
    """With recompute: jobs are dropped where memory is short, and set aside where sequences are."""
    config = EngineConfig.of(
        {"policy": policy, "kv_tokens": kv_tokens, "max_batch": 3, "residency": "recompute", "visit": 0}
    )
    backend = Kept("", Wanted(16, kv_tokens, 0))
    with Engine(backend, config, VirtualClock()) as engine:
        outputs = all_of(at_once(engine, prompts() * 2, [params(i, max_tokens=30) for i in range(16)]))
        assert all(output.finish_reason == "length" for output in outputs)
        assert not any(engine.look(backend.held).values())
    assert backend.residents.set_aside > (40 if kv_tokens > 1000 else 0)


def plan_of(**lists: Any) -> Plan:
    moves = Moves()
    for name in ("park", "load", "drop", "prefetch"):
        setattr(moves, name, lists.pop(name, []))
    return Plan(0, {}, moves=moves, **lists)


def test_who_is_away_for_long_is_set_aside_and_comes_back() -> None:
    context = Fake(4)
    residents = Residents(context)
    job, other = Job(1, 0, 5, 9), Job(2, 0, 5, 9)
    residents.follow(plan_of(joined=[job, other]))
    context.rows[residents.rows[job]].extend(range(5))
    residents.follow(plan_of(left=[job]))
    for _ in range(PATIENCE - 1):
        assert job in residents.rows and residents.follow(plan_of()) == 0
    assert residents.follow(plan_of()) > 0
    assert job in residents.aside and job not in residents.rows
    residents.follow(plan_of(joined=[job]))
    assert context.rows[residents.rows[job]] == list(range(5)) and not residents.aside


def test_copies_end_at_once() -> None:
    context = Fake(4)
    residents = Residents(context)
    job = Job(1, 0, 5, 9)
    residents.follow(plan_of(joined=[job]))
    context.rows[residents.rows[job]].extend(range(5))
    out, back = Copy(job, 1, True), Copy(job, 1, False)
    assert residents.follow(plan_of(left=[job], park=[out])) > 0
    assert residents.landed() == [out] and job in residents.away and not any(context.rows)
    assert residents.follow(plan_of(prefetch=[back])) > 0
    assert residents.landed() == [back] and context.rows[residents.rows[job]] == list(range(5))
    assert residents.landed() == []
    for _ in range(PATIENCE):  # fetched ahead of need, and then nobody needed it
        residents.follow(plan_of())
    assert job in residents.aside
    assert residents.follow(plan_of(park=[out])) == 0  # it is on the host already
    assert job in residents.away
    residents.forget(job)
    assert not (residents.rows or residents.aside or residents.away or residents._left)
