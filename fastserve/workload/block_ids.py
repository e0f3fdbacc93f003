"""BlockIds: the block ids of many prompts, compact: a row stores only what it adds to an earlier one of its kin."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

NONE = -1
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
RECENT = 64
"""Rows, those read last, of which all ids are at hand: the next one of their kin mostly goes on from one of them."""
_RENAMED = -(2**62)
"""Ids that do not fit 64 bits (long hashes) are numbered from here downwards; equal ones stay equal."""


class BlockIds(Sequence[list[int]]):
    """Rows of ids; reading one makes a list of it. Memory: 8 bytes for each id that its kin's last row does not have.

    A row goes on from an earlier one: `base`, of which it has the first `shared` ids, and then its own.
    """

    def __init__(self) -> None:
        self._own: list[array[int]] = []
        self._base = array("q")
        self._shared = array("q")
        self._rows = array("q")  # by row: which of the stored ones it is
        self._renamed: dict[int, int] = {}
        self._recent: dict[int, array[int]] = {}  # of stored rows all ids, the row read last behind the others

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], kin: Sequence[Hashable] | None = None) -> BlockIds:
        """kin: by row; rows of equal kin, such as the turns of a conversation, mostly begin alike."""
        if isinstance(rows, BlockIds):
            return rows
        found, last = cls(), dict[Hashable, int]()
        for row, ids in enumerate(rows):
            key = None if kin is None else kin[row]
            found.append(ids, NONE if key is None else last.get(key, NONE))
            if key is not None:
                last[key] = row
        return found

    def append(self, ids: Sequence[int], like: int = NONE) -> None:
        """Adds a row. like: an earlier row that it may begin with."""
        try:
            whole = array("q", ids)
        except OverflowError:
            whole = array("q", map(self._fitting, ids))
        base = shared = 0
        if like != NONE and len(whole):
            base = self._rows[like]
            before = self._read(base)
            shared = _alike(before, whole)
            while shared <= self._shared[base]:  # nothing of its own is shared: go on from what it went on from
                if not shared:
                    break
                base = self._base[base]
        self._rows.append(len(self._own))
        self._own.append(whole[shared:] if shared else whole)
        self._base.append(base if shared else NONE)
        self._shared.append(shared)

    def _fitting(self, block: int) -> int:
        if _SMALLEST <= block <= _LARGEST:
            return block
        return self._renamed.setdefault(block, _RENAMED - len(self._renamed))

    def _read(self, stored: int) -> array[int]:
        """All ids of a stored row; not to be changed."""
        recent = self._recent
        parts: list[array[int]] = []
        which, end = stored, -1
        while True:
            known = recent.get(stored)
            shared, own = (0, known) if known is not None else (self._shared[stored], self._own[stored])
            parts.append(own if end < 0 else own[: end - shared])
            if not shared:
                break
            end, stored = shared, self._base[stored]
            while end <= self._shared[stored] and stored not in recent:
                stored = self._base[stored]
        whole = parts[0]
        if len(parts) > 1:
            whole = array("q")
            for part in reversed(parts):
                whole.extend(part)
        recent.pop(which, None)
        recent[which] = whole
        if len(recent) > RECENT:
            del recent[next(iter(recent))]
        return whole

    def take(self, index: Sequence[int] | npt.NDArray[Any]) -> BlockIds:
        """These rows, in this order; what they store is shared with this object."""
        other = BlockIds()
        other._own, other._base, other._shared, other._renamed = self._own, self._base, self._shared, self._renamed
        other._rows = array("q", np.asarray(self._rows, np.int64)[np.asarray(index, np.int64)].tobytes())
        return other

    def lengths(self) -> list[int]:
        """Ids of each row."""
        return [self._shared[row] + len(self._own[row]) for row in self._rows]

    def fresh(self, row: int) -> Sequence[int]:
        """Those of its ids that it does not share with the row that it goes on from."""
        return self._own[self._rows[row]]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> list[int]: ...
    @overload
    def __getitem__(self, row: slice) -> list[list[int]]: ...
    def __getitem__(self, row: int | slice) -> list[int] | list[list[int]]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return self._read(self._rows[row]).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == list(theirs) for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"BlockIds({len(self):,} rows, {sum(map(len, self._own)):,} ids stored)"


def _alike(one: array[int], two: array[int]) -> int:
    """How many ids both begin with."""
    most = min(len(one), len(two))
    if one[:most] == two[:most]:
        return most
    low, high = 0, most  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle
    return low
