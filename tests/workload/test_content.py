"""Content: equal ids are equal prefixes whatever the file's ids mean; answers; what is kept for it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fastserve.workload import Trace, TraceError
from fastserve.workload.content import Content, content, unit_of


def trace(rows: list[tuple[int, int, list[int]]], programs: list[str] | None = None, block: int = 16) -> Trace:
    """rows: prompt tokens, output tokens, block ids."""
    prompts, outputs, ids = zip(*rows, strict=True)
    arrival = np.arange(len(rows), dtype=np.int64) * 10**9
    return Trace(
        "mine", "made", arrival, np.array(prompts), np.array(outputs), hash_ids=list(map(list, ids)), block_size=block,
        program=programs,
    )  # fmt: skip


def known(made: Trace, unit: int = 16, scopes: Any = None) -> Content:
    found = content(made, unit, scopes)
    assert found is not None
    return found


@pytest.mark.parametrize("group", [1, 3])
def test_ids_are_equal_exactly_where_all_before_them_is(group: int) -> None:
    rng = random.Random(group)
    rows = []
    for _ in range(300):
        ids = [rng.randrange(3) for _ in range(rng.randrange(12))]
        if rows and rng.random() < 0.6:  # some go on from an earlier one
            before = rng.choice(rows)[2]
            ids = before[: rng.randint(0, len(before))] + ids
        rows.append((len(ids) * 16 + rng.randint(1, 15), 20, ids))
    found = known(trace(rows, [str(i % 7) for i in range(300)]), 16 * group)
    names: dict[tuple[int, ...], int] = {}
    for row, (_, _, ids) in enumerate(rows):
        mine = found.prompt(row)
        assert len(mine) == len(ids) // group
        for at, id in enumerate(mine):
            assert names.setdefault(tuple(ids[: (at + 1) * group]), id) == id
    assert len(set(names.values())) == len(names) == found.distinct


def test_the_block_that_a_prompt_does_not_fill_is_not_shared() -> None:
    found = known(trace([(40, 1, [1, 2, 3]), (48, 1, [1, 2, 3])]))
    assert len(found.prompt(0)) == 2 and len(found.prompt(1)) == 3
    assert found.prompt(1)[:2] == found.prompt(0)


def test_ids_of_different_scopes_never_meet() -> None:
    found = known(trace([(32, 1, [1, 2])] * 3), scopes=["a", "b", "a"])
    assert found.prompt(0) == found.prompt(2) and not set(found.prompt(0)) & set(found.prompt(1))


def test_an_answer_is_what_the_next_turn_repeats() -> None:
    turns = [(32, 20, [1, 2]), (96, 20, [1, 2, 3, 4, 5, 6]), (130, 4, [1, 2, 3, 4, 5, 6, 7, 8])]
    found = known(trace(turns, ["p"] * 3))
    assert found.answer(0) == found.prompt(1)[2:3]  # 32 + 20 tokens, but no KV of the last one: three units are full
    assert found.answer(1) == found.prompt(2)[6:7]
    assert found.answer(2) == ()


@pytest.mark.parametrize(
    ("second", "programs"),
    [
        ((48, 1, [1, 9, 9]), ["p", "p"]),  # does not repeat the prompt
        ((48, 1, [1, 2, 3]), ["p", "p"]),  # has no room for the answer
        ((96, 1, [1, 2, 3, 4, 5, 6]), ["p", "q"]),  # is another program's
    ],
)
def test_an_answer_that_nobody_repeats_is_not_known(second: tuple[int, int, list[int]], programs: list[str]) -> None:
    assert known(trace([(32, 40, [1, 2]), second], programs)).answer(0) == ()


def test_the_hit_rate_of_an_unlimited_cache_counts_answers_and_computes_the_newest_token() -> None:
    made = trace([(32, 17, [1, 2]), (64, 1, [1, 2, 3, 4]), (64, 1, [1, 2, 3, 4])], ["p"] * 3)
    assert known(made).hit_rate(made) == (48 + 48) / 160


def test_a_path_is_kept_as_a_few_ranges() -> None:
    """A conversation of a thousand turns: distinct units are kept once, and no turn keeps its prompt."""
    rows = [(16 * turns, 1, list(range(turns))) for turns in range(1, 1001)]
    found = known(trace(rows, ["p"] * 1000))
    assert found.distinct == 1000 and len(found.paths.starts) == 1
    assert found.prompt(999) == range(1000)


def test_a_unit_is_whole_blocks_of_both() -> None:
    made = trace([(64, 1, [1, 2])], block=24)
    assert unit_of(made, 16) == 48
    with pytest.raises(TraceError, match="units of 32 tokens are not whole KV blocks of 16 tokens and whole blocks of"):
        unit_of(made, 16, 32)
    assert content(Trace("t", "t", np.zeros(1, np.int64), np.ones(1, np.int64), np.ones(1, np.int64)), 16) is None


def test_an_unlimited_cache_finds_what_has_been_said_before() -> None:
    """Against sets of ids; answers too that only a later row repeats, which a row before that begins with."""
    later = known(trace([(32, 33, [0, 1]), (56, 1, [0, 1, 2]), (70, 1, [0, 1, 2, 3])]))
    assert later.found([32, 56, 70]) == [0, 48, 64]
    rng = random.Random(11)
    rows: list[tuple[int, int, list[int]]] = []
    for _ in range(400):
        ids = [rng.randrange(4) for _ in range(rng.randrange(5))]
        if rows and rng.random() < 0.8:
            before = rng.choice(rows[-20:])[2]
            ids = before[: rng.randint(0, len(before))] + ids
        rows.append((len(ids) * 16 + rng.randint(1, 15), rng.randint(1, 60), ids))
    found = known(trace(rows))
    seen: set[int] = set()
    expected = []
    for row, (prompt, _, _) in enumerate(rows):
        path = list(found.prompt(row))
        lead = next((i for i, id in enumerate(path) if id not in seen), len(path))
        expected.append(16 * min(lead, (prompt - 1) // 16))
        seen |= {*path, *found.answer(row)}
    assert found.found([prompt for prompt, _, _ in rows]) == expected and sum(expected) > 0
