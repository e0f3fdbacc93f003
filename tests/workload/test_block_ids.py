"""BlockIds: rows come back as they were given, whatever they share, and the shared part is stored once."""

from __future__ import annotations

import pickle
from array import array
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastserve.workload import block_ids
from fastserve.workload.block_ids import BlockIds

ROWS = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=8), st.integers(0, 2)), max_size=20)


@given(ROWS, st.integers(1, 3))
def test_rows_come_back(rows: list[tuple[list[int], int]], recent: int) -> None:
    with mock.patch.object(block_ids, "RECENT", recent):
        check_rows(rows)


def check_rows(rows: list[tuple[list[int], int]]) -> None:
    ids, kin = [row for row, _ in rows], [one for _, one in rows]
    found = BlockIds.of(ids, kin)
    assert list(found) == ids and found == ids and len(found) == len(ids)
    assert pickle.loads(pickle.dumps(found)) == ids
    assert BlockIds.of(ids) == ids
    assert sum(len(found.fresh(row)) for row in range(len(ids))) <= sum(map(len, ids))
    if ids:
        order = np.random.default_rng(len(ids)).integers(len(ids), size=2 * len(ids))
        assert found.take(order) == [ids[i] for i in order]
        assert [found[i] for i in order.tolist()] == [ids[i] for i in order]


def test_reading_a_long_conversation_reads_each_turn_from_the_one_before() -> None:
    turns = [list(range(turn)) for turn in range(1, 300)]
    found = BlockIds.of(turns, ["a"] * len(turns))
    looked_at: list[int] = []

    class Base(array):  # type: ignore[type-arg]
        def __getitem__(self, at: Any) -> Any:
            looked_at.append(at)
            return super().__getitem__(at)

    found._base = Base("q", found._base)
    assert list(found) == turns
    assert len(looked_at) < 2 * len(turns)


def test_a_conversation_is_stored_once() -> None:
    turns = [[*range(10 * turn), 1000 + turn] for turn in range(1, 100)]  # the last, partial block differs
    found = BlockIds.of(turns, ["a"] * len(turns))
    assert found == turns
    assert sum(len(found.fresh(row)) for row in range(len(turns))) == 11 + 98 * 11


def test_ids_beyond_64_bits_stay_equal_and_apart() -> None:
    found = BlockIds.of([[2**80, 2**81, 5], [2**80, 2**82], [-(2**63), 2**63 - 1]])
    one, two, three = found
    assert one[0] == two[0] and len({*one, *two}) == 4
    assert three == [-(2**63), 2**63 - 1]
