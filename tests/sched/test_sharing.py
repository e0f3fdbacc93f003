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


@pytest.mark.parametrize(
    ("name", "memory"), [("fixed-priority", "defer"), ("mlfq", "recompute"), ("chaos", "reactive")]
)
def test_a_lone_prefill_whose_chunks_change_what_others_find(name: str, memory: str) -> None:
    """Long prompts in small pieces: many stretches that must not be longer than they are."""
    for seed in range(1, 5):
        compare(name, seed, "chunked", memory, guard=seed % 2 == 0, n=24, unit=16)
