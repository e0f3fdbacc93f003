"""What adapters add to a packed product, in the order in which the kernels read it: see LowRank of products.h.

A product may be of several projections side by side (query, key and value; gate and up), each with factors of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

Factors = tuple[Tensor, Tensor]
"""down (rank, inner), up (outer, rank), float32: they add (x @ down.T) @ up.T."""


class CLowRank(ctypes.Structure):
    """LowRank of products.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("down", "up", "first", "begin")),
        ("rank", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class LowRank:
    """One adapter's part of one packed weight."""

    down: Tensor  # (rank, inner), padded with zeros to a multiple of 4 and to whole vectors
    up: Tensor  # (vectors, lanes)
    first: Tensor  # (half panels + 1,) int32: which vectors are whose
    begin: Tensor  # (half panels,) int32: which of the ranks the first of them is for

    def pointers(self) -> CLowRank:
        """Addresses only: this must outlive it."""
        tensors = (self.down, self.up, self.first, self.begin)
        return CLowRank(*(it.data_ptr() for it in tensors), self.down.shape[0], 0)

    @property
    def nbytes(self) -> int:
        return sum([it.nbytes for it in (self.down, self.up, self.first, self.begin)])


def low_rank(sizes: Sequence[int], given: Mapping[int, Factors], gated: bool, lanes: int) -> LowRank:
    """sizes: columns of each projection of the weight. given: by the projection's number. gated: panels take turns, a
    vector of the first projection and one of the second.
    """
    ranks = [given[i][0].shape[0] if i in given else 0 for i in range(len(sizes))]
    starts = [sum(ranks[:i]) for i in range(len(sizes))]
    down = torch.cat([given[i][0] for i in sorted(given)])
    down = pad(down, (0, -down.shape[1] % lanes, 0, -down.shape[0] % 4)).contiguous()
    if not gated and any(size % lanes for size in sizes[:-1]):  # a vector is of two projections
        sizes, ranks, starts, given = [sum(sizes)], [sum(ranks)], [0], {0: (down, _side_by_side(sizes, ranks, given))}
    ups = [_vectors(given.get(i), size, lanes) for i, size in enumerate(sizes)]
    halves = [(starts[i], part) for i, parts in enumerate(ups) for part in parts]
    if gated:
        halves = [pair for both in zip(*([(starts[i], part) for part in ups[i]] for i in (0, 1)), strict=True)
                  for pair in both]  # fmt: skip
    elif len(halves) % 2:
        halves.append((0, torch.empty(0, lanes)))
    first = torch.tensor([0, *(len(part) for _, part in halves)]).cumsum(0).int()
    begin = torch.tensor([start for start, _ in halves], dtype=torch.int32)
    return LowRank(down, torch.cat([part for _, part in halves]).contiguous(), first, begin)


def _vectors(factors: Factors | None, size: int, lanes: int) -> Sequence[Tensor]:
    """For each vector of the projection's columns (rank, lanes); nothing for one that is not adapted."""
    count = -(-size // lanes)
    if factors is None:
        return [torch.empty(0, lanes)] * count
    up = pad(factors[1].t(), (0, -size % lanes))  # (rank, columns)
    return up.reshape(up.shape[0], count, lanes).transpose(0, 1).unbind()


def _side_by_side(sizes: Sequence[int], ranks: Sequence[int], given: Mapping[int, Factors]) -> Tensor:
    """(all columns, all ranks), with zeros where a column is of another projection."""
    whole: Tensor = torch.block_diag(
        *(given[i][1] if i in given else torch.empty(size, 0) for i, size in enumerate(sizes))
    )
    return whole


class LowRanks:
    """The parts of all adapters of one packed weight, by slot. inner: of the weight."""

    def __init__(self, sizes: Sequence[int], gated: bool, lanes: int, slots: int) -> None:
        self.sizes = sizes
        self.gated = gated
        self.lanes = lanes
        self.kept: list[LowRank | None] = [None] * slots
        self.table = (CLowRank * slots)()

    def made(self, given: Mapping[int, Factors]) -> LowRank:
        """Any thread."""
        return low_rank(self.sizes, given, self.gated, self.lanes)

    def put(self, slot: int, part: LowRank | None) -> None:
        self.kept[slot] = part
        self.table[slot] = CLowRank() if part is None else part.pointers()
