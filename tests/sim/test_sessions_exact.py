"""Sessions in macro-steps are those of single steps: clients that give up and followers bound a plan as arrivals do."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace
from sim.prefix_cache import content_of, decided
from sim.run import build
from sim.settings import Settings
from tests.sim.test_sessions import trace

POLICIES = ("fcfs", "sj-mlfq", "srpt", "las", "program-fcfs", "plas", "atlas", "lpm", "deepest-first")


def programs(rng: random.Random) -> Trace:
    """With joins, thinks of no time, and starts of their own."""
    work = []
    for _ in range(rng.randint(2, 12)):
        rows: list[tuple[tuple[int, ...], float, int]] = [((), 0.0, rng.randint(1, 40))]
        for i in range(1, rng.randint(1, 7)):
            before = tuple(sorted(rng.sample(range(i), rng.randint(0 if rng.random() < 0.1 else 1, min(i, 2)))))
            rows.append((before, rng.choice([0, 0.1, rng.random() * 5]), rng.randint(1, 40)))
        work.append(rows)
    return trace(work, [rng.random() * 5 * i for i in range(len(work))], prompt=64, ids=rng.random() < 0.7)


@pytest.mark.parametrize("block", range(4))
def test_macro_steps_are_single_steps(block: int) -> None:
    gave_up = 0
    for seed in range(40 * block, 40 * block + 40):
        rng = random.Random(seed)
        one = programs(rng)
        how: dict[str, Any] = rng.choice(
            [{"sessions": rng.randint(1, 6)}, {"program_rate": rng.choice([0.1, 1.0])}, {}, {"open_loop": True}]
        )
        if rng.random() < 0.5:
            how["client_timeout"] = rng.choice([0.05, 0.3, 1.0, 4.0])
        settings = Settings(
            max_batch=rng.choice([1, 2, 5]), kv_tokens=rng.choice([700, 1500, "unlimited"]), token_budget=64,
            host_tokens=rng.choice([0, 2000]), batching=rng.choice(["mixed", "chunked", "prefill-first"]),
            residency=rng.choice(["recompute", "reactive", "proactive"]), **how,
        )  # fmt: skip
        policy = rng.choice(POLICIES)
        hardware = settings.hardware()
        found = []
        for macro in (True, False):
            shared = content_of(decided(settings, one), one, hardware.memory.block_tokens)
            world, scheduler = build(one, PolicySpec(policy), settings, seed, hardware, shared=shared)
            scheduler.macro = scheduler.macro and macro
            world.run()
            assert world.fed is not None
            found.append((world.recorder.columns(), world.recorder.horizon, world.fed.sessions.abandoned))
        assert found[0][1:] == found[1][1:], (seed, policy, how)
        gave_up += int((found[0][0]["finish"] == "gave_up").sum())
        for name, values in found[0][0].items():
            other = found[1][0][name]
            assert np.array_equal(values, other, equal_nan=values.dtype.kind == "f"), (seed, policy, how, name)
    assert gave_up > 0
