"""Prefix caching: macro-steps, single steps and the specification agree bit for bit, idle units and their order too."""

from __future__ import annotations

import pytest

from tests.sched.sharing import BATCHINGS, NAMES, POOLS, compare


@pytest.mark.parametrize("memory", POOLS)
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", NAMES)
def test_macro_steps_are_the_specification(name: str, batching: str, memory: str) -> None:
    guard = (NAMES.index(name) + BATCHINGS.index(batching) + POOLS.index(memory)) % 2 == 0
    compare(name, 0, batching, memory, guard, n=24)


@pytest.mark.parametrize("memory", POOLS[1:])
@pytest.mark.parametrize("name", NAMES)
def test_units_on_the_host_too(name: str, memory: str) -> None:
    turn = NAMES.index(name) + POOLS.index(memory)
    compare(name, 0, BATCHINGS[turn % 4], memory, guard=turn % 8 < 4, n=24, tier=True)


CHUNKS = (("fcfs", "recompute", 1), ("las", "defer", 1), ("srpt", "proactive", 2), ("sj-mlfq", "reactive", 2))


@pytest.mark.parametrize(("name", "memory", "seed"), CHUNKS)
def test_a_lone_prefill_whose_chunks_change_what_others_find(name: str, memory: str, seed: int) -> None:
    """Cases that differ where such a stretch goes on."""
    compare(name, seed, "chunked", memory, guard=seed % 2 == 0, n=24)
