"""BlockIds: rows come back as they were given, whatever they share, and the shared part is stored once."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastserve.workload.block_ids import BlockIds

ROWS = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=8), st.integers(0, 2)), max_size=20)


@given(ROWS)
def test_rows_come_back(rows: list[tuple[list[int], int]]) -> None:
    ids, kin = [row for row, _ in rows], [one for _, one in rows]
    found = BlockIds.of(ids, kin)
    assert list(found) == ids and found == ids and len(found) == len(ids)
    assert pickle.loads(pickle.dumps(found)) == ids
    assert BlockIds.of(ids) == ids
    assert sum(len(found.fresh(row)) for row in range(len(ids))) <= sum(map(len, ids))
    if ids:
        order = np.random.default_rng(len(ids)).integers(len(ids), size=2 * len(ids))
        assert found.take(order) == [ids[i] for i in order]


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
