"""A real body that is looked at: copies are told when they have ended, and tokens are those of one that is not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from fastserve.engine import Engine, SamplingParams
from fastserve.observers.iterations import IterationLog
from fastserve.observers.timeline import Timeline
from fastserve.sched.job import Copy, Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan, Transfer
from tests.observers.chrome_trace import check

pytestmark = pytest.mark.usefixtures("one_thread")
LITTLE: dict[str, Any] = {
    "policy": "las", "knobs": {"quantum": 1e-6}, "visit": 0, "max_batch": 4, "kv_tokens": 320, "host_tokens": 4096,
    "dtype": "float32", "latency": "opt-13b-a100",
}  # fmt: skip


class Copies(Observer):
    """What is told of copies, beside what the plans asked for and the outcomes reported."""

    def __init__(self) -> None:
        self.asked: set[Copy] = set()
        self.landed: list[Copy] = []
        self.told: list[Transfer] = []

    def planned(self, plan: Plan, now: int) -> None:
        self.asked.update([*plan.park, *plan.load, *plan.prefetch])
        assert now >= plan.now

    def copied(self, transfer: Transfer, now: int) -> None:
        assert transfer.start < transfer.end <= now
        self.told.append(transfer)

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        self.landed += outcome.copied
        assert [transfer.copy for transfer in self.told] == self.landed


def test_a_real_engine_is_looked_at(tmp_path: Path) -> None:
    rng = random.Random(3)
    prompts = [[rng.randrange(32, 127) for _ in range(rng.choice([8, 30, 90]))] for _ in range(10)]
    params = [SamplingParams(max_tokens=12 + 8 * (i % 3), seed=i, ignore_eos=True) for i in range(10)]
    with Engine.from_pretrained("embedded", **LITTLE) as engine:
        wanted = [output.token_ids for output in engine.generate(prompts, params)]
    copies = Copies()
    log = IterationLog(keep=True)
    with Engine.from_pretrained("embedded", **LITTLE) as engine:
        for observer in (copies, log, Timeline(tmp_path / "t.json")):
            engine.attach(observer)
        assert [output.token_ids for output in engine.generate(prompts, params)] == wanted
        block = engine.hardware.memory.block_tokens
    assert len(copies.told) > 5
    assert {transfer.copy for transfer in copies.told} <= copies.asked
    events = check((tmp_path / "t.json").read_text()).events
    assert sum(event.get("cat") == "copy" for event in events) == len(copies.told)
    visits = [event for event in events if event.get("cat") == "visit"]
    assert sum(event["args"]["tokens"] for event in visits) == sum(map(len, wanted))
    assert sum(row.batch + len(row.prefilled) for row in log.rows) == sum(map(len, wanted))
    assert max(row.kv_used for row in log.rows) * block <= 320 + block * LITTLE["max_batch"]  # who must leave next
    for row, after in zip(log.rows, log.rows[1:], strict=False):
        assert row.end <= after.start
