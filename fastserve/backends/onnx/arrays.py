"""K and V of all slots: one array a layer each, whose pages the system gives when they are written.

A slot has room for the longest context, but memory is taken by what is in it: the arrays are mapped, not allocated, so
a page of 4 KiB (of 64 numbers a head: 16 tokens) is there once a token has been written into it. What jobs leave behind
stays for the next ones, and is given back where more pages are in use than the pool has tokens.
"""

from __future__ import annotations

import math
import mmap
import sys
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.float32]
"""Of one job: (2 * layers, kv_heads, tokens, head_dim)."""

ITEM = 4  # bytes of a float32
NORESERVE = 0x4000  # MAP_NORESERVE, which Python's mmap does not name: a range may be larger than the memory there is


class Mapped(NamedTuple):
    """pages: None where the array is ordinary memory."""

    array: Floats
    pages: mmap.mmap | None


def mapped(shape: tuple[int, ...]) -> Mapped:
    """Zeros that take no memory before they are written. MemoryError where the system refuses so large a range."""
    size = math.prod(shape) * ITEM
    if sys.platform == "win32" or not size:
        return Mapped(np.zeros(shape, np.float32), None)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (NORESERVE if sys.platform == "linux" else 0)
    try:
        pages = mmap.mmap(-1, size, flags=flags)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"a KV cache of {size:,} bytes a layer cannot be mapped: {error}") from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would hold the room of many tokens that are not there
        with suppress(OSError):
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return Mapped(np.frombuffer(pages, np.float32).reshape(shape), pages)


class Arrays:
    """slots and room grow: room is tokens that a slot has place for, at most `longest`."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, longest: int, slots: int, room: int) -> None:
        self.each = 2 * layers
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.longest = longest
        self.made = 0  # how often they were made: whoever keeps their addresses looks at it
        self.begin(slots, room)

    def begin(self, slots: int, room: int) -> None:
        """Made anew, empty."""
        self.slots = slots
        self.room = min(room, self.longest)
        self._maps = [mapped(self._shape(slots, self.room)) for _ in range(self.each)]
        self.touched = [0] * slots  # tokens of each slot whose pages are there
        self.made += 1

    @property
    def all(self) -> list[Floats]:
        """K and V of the first layer, of the second, and so on: (slots, kv_heads, room, head_dim) each."""
        return [it.array for it in self._maps]

    def _shape(self, slots: int, room: int) -> tuple[int, ...]:
        return (slots, self.kv_heads, room, self.head_dim)

    def grow(self, slots: int, room: int, lengths: list[int]) -> None:
        """To at least so many slots and so much room, at least doubled. lengths: tokens that each slot keeps. Where
        there is no memory for it all is as before.
        """
        slots = max(slots, 2 * self.slots) if slots > self.slots else self.slots
        room = min(self.longest, max(room, 2 * self.room)) if room > self.room else self.room
        if (slots, room) == (self.slots, self.room):
            return
        grown = [mapped(self._shape(slots, room)) for _ in range(self.each)]
        for number, new in enumerate(grown):
            for slot, length in enumerate(lengths):
                if length:
                    new.array[slot, :, :length] = self._maps[number].array[slot, :, :length]
            self._maps[number] = new  # the old one's pages go back before the next is copied
        self.touched = [*lengths, *[0] * (slots - len(lengths))]
        self.slots, self.room = slots, room
        self.made += 1

    def write(self, slot: int, length: int) -> None:
        """So many tokens of it are being written."""
        if length > self.touched[slot]:
            self.touched[slot] = length

    def take(self, slot: int, length: int) -> Rows:
        """A copy of its first tokens."""
        rows = np.empty((self.each, self.kv_heads, length, self.head_dim), np.float32)
        for number, array in enumerate(self.all):
            rows[number] = array[slot, :, :length]
        return rows

    def put(self, slot: int, rows: Rows) -> None:
        length = rows.shape[2]
        for array, one in zip(self.all, rows, strict=True):
            array[slot, :, :length] = one
        self.write(slot, length)

    def move(self, source: int, target: int, length: int) -> None:
        for array in self.all:
            array[target, :, :length] = array[source, :, :length]
        self.write(target, length)

    def swap(self, one: int, length: int, other: int, other_length: int) -> None:
        for array in self.all:
            kept = array[one, :, :length].copy()
            array[one, :, :other_length] = array[other, :, :other_length]
            array[other, :, :length] = kept
        self.write(one, other_length)
        self.write(other, length)

    def give_back(self, lengths: list[int]) -> None:
        """Pages beyond what the slots hold go back to the system."""
        advice = getattr(mmap, "MADV_DONTNEED", None)
        for slot, length in enumerate(lengths):
            if self.touched[slot] > length and advice is not None:
                self._release(slot, length, self.touched[slot], advice)
                self.touched[slot] = length

    def _release(self, slot: int, first: int, end: int, advice: int) -> None:
        token = self.head_dim * ITEM
        for _, pages in self._maps:
            if pages is None:
                return
            for head in range(self.kv_heads):
                start = (slot * self.kv_heads + head) * self.room * token
                begin = -(-(start + first * token) // mmap.PAGESIZE) * mmap.PAGESIZE
                size = (start + end * token) // mmap.PAGESIZE * mmap.PAGESIZE - begin
                if size > 0:
                    pages.madvise(advice, begin, size)
