"""Shelf: memory for packed weights, on huge pages where the system has them.

A step reads every weight once: with pages of 4 KB the processor looks up 500 addresses a megabyte on the way.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

HUGE = 2 << 20
SIZE = 32 * HUGE
LINE = 64


class Shelf:
    """Holds what put() is given, for as long as a tensor of it lives. Memory that is not filled is never taken."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def put(self, data: Tensor) -> Tensor:
        """A copy of a contiguous CPU tensor."""
        size = -(-data.nbytes // LINE) * LINE
        if size > len(self._free):
            self._free = _room(max(SIZE, size))
        mine, self._free = self._free[: data.nbytes], self._free[size:]
        return mine.view(data.dtype).view(data.shape).copy_(data)


def _room(size: int) -> Tensor:
    """So many bytes, and whole huge pages of them."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    held = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        held.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(held, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE
    return whole[start : start + size]
