"""Calls of a graph of our own export: all decodes and one chunk at once, over caches that change in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastserve.backends.onnx.arrays import Arrays, Floats, mapped
from fastserve.backends.onnx.session import run_bound

BINDINGS = 64
"""Ways in which caches lie that are remembered: each names two arrays a layer, twice."""


class Chunk(NamedTuple):
    """Tokens of one job, whose KV is in this slot, from position `first` on. yields: the last one's logits count."""

    slot: int
    tokens: Sequence[int]
    first: int
    yields: bool


class PackedGraph:
    """session: of ONNX Runtime. threads that call it: one at a time."""

    def __init__(self, session: Any, arrays: Arrays, vocab_size: int) -> None:
        self.session = session
        self.arrays = arrays
        self.vocab_size = vocab_size
        self.names = [f"{layer}.{x}" for layer in range(arrays.each // 2) for x in "kv"]
        self.logits: Floats = np.empty((0, vocab_size), np.float32)
        self._bindings: dict[tuple[int, int], Any] = {}
        self._made = 0  # of the arrays whose addresses the bindings have
        self._idle: Floats = np.empty(0, np.float32)

    def run(self, tokens: Sequence[int], lengths: Sequence[int], chunks: Sequence[Chunk]) -> Floats:
        """Logits, a row for each decode and then for each chunk that yields; good until the next call.

        tokens, lengths: the newest token of whoever is in the first slots, and how many are in its cache before it.
        MemoryError where there is no memory for the step.
        """
        rows = len(tokens) + sum([chunk.yields for chunk in chunks])
        if rows > len(self.logits):
            self.logits = np.empty((max(rows, 2 * len(self.logits)), self.vocab_size), np.float32)
        done = 0
        for number, chunk in enumerate(chunks or [None]):
            some = (tokens, lengths) if number == 0 else ((), ())
            done = self._call(*some, chunk, done)
        return self.logits[:rows]

    def _call(self, tokens: Sequence[int], lengths: Sequence[int], chunk: Chunk | None, done: int) -> int:
        """done: rows of the logits that are there. Returns them with its own."""
        decodes, size = len(tokens), 0 if chunk is None else len(chunk.tokens)
        if chunk is None:
            first, given, positions = 0, tokens, lengths
        else:
            first = chunk.first
            given = [*tokens, *chunk.tokens]
            positions = [*lengths, *range(first, first + size)]
        there = max(decodes, 1)  # rows of the first attention: a stand-in where nobody decodes
        yields = chunk is not None and chunk.yields
        feed: dict[str, NDArray[Any]] = {
            "tokens": np.array(given, np.int64),
            "positions": np.array(positions, np.int64),
            "decode_rows": np.arange(there),
            "chunk_rows": np.arange(decodes, decodes + size) if size else np.zeros(1, np.int64),
            "order": np.arange(decodes + size) if decodes else np.arange(1, 1 + size),
            "wanted": np.array([*range(decodes), *([decodes + size - 1] if yields else ())] or [0], np.int64),
            "decode_last": np.array(lengths or [0], np.int32),
            "decode_longest": np.array(max(lengths, default=0) + 1, np.int32),
            "chunk_last": np.array([first + size - 1 if size else 0], np.int32),
            "chunk_longest": np.array(first + size if size else 1, np.int32),
        }
        wanted = decodes + yields
        out = self.logits[done : done + wanted] if wanted else np.empty((1, self.vocab_size), np.float32)
        binding = self.bound(decodes, -1 if chunk is None else chunk.slot)
        binding.bind_output("logits", "cpu", 0, np.float32, out.shape, out.ctypes.data)
        for name, value in feed.items():
            binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        run_bound(self.session, binding)
        return done + wanted

    def bound(self, decodes: int, slot: int) -> Any:
        """A binding of all caches: the first `decodes` slots, and this one for the chunk (-1: there is none)."""
        arrays = self.arrays
        if arrays.made != self._made or len(self._bindings) >= BINDINGS:
            self._bindings.clear()
            if arrays.made != self._made:
                self._idle = mapped((1, arrays.kv_heads, arrays.room, arrays.head_dim)).array
            self._made = arrays.made
        binding = self._bindings.get((decodes, slot))
        if binding is None:
            binding = self._bindings[decodes, slot] = self.session.io_binding()
            for name, array in zip(self.names, arrays.all, strict=True):
                for part, first, count in (("decode", 0 if decodes else -1, max(decodes, 1)), ("chunk", slot, 1)):
                    it: NDArray[Any] = array[first:] if first >= 0 else self._idle
                    where = ("cpu", 0, np.float32, (count, *array.shape[1:]), it.ctypes.data)
                    binding.bind_input(f"{part}_past.{name}", *where)
                    binding.bind_output(f"{part}_present.{name}", *where)
        return binding
