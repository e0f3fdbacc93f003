"""Its times, measured on empty slots: a latency model in about a second, and copies by size."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from statistics import median
from time import perf_counter
from typing import Final

from fastserve.backends.onnx.arrays import Arrays
from fastserve.backends.onnx.genai import GenaiGraph
from fastserve.backends.onnx.graph import Chunk, PackedGraph
from fastserve.backends.onnx.model import Model
from fastserve.engine.backend import CopyTime
from fastserve.engine.warmup import latency_of, link_of
from fastserve.hardware import Hardware, Memory

SECONDS: Final = 1.0
EACH_S, TRIES = 0.08, 5
"""A step is tried again while it has taken less than so long in all, so often at most, and its least time counts."""

LENGTHS: Final = (16, 64, 256, 128, 512)  # of prefills, in the order in which they are tried
CONTEXTS: Final = (32, 256)  # of each decoding sequence
COPIES: Final = (1, 2, 4, 8, 16, 32, 64)  # blocks
REPEATS: Final = 7


def measure(model: Model, graph: PackedGraph | GenaiGraph, memory: Memory, max_batch: int) -> Hardware:
    """On empty slots, which may hold anything then. memory: the pools, handed on."""
    bench = _Bench(graph)
    size = graph.arrays.slots, graph.arrays.room
    pool = memory.device_tokens or 0
    longest = min(model.max_model_len, pool)
    bench.prefill(min(LENGTHS[0], longest))  # the first pass of a session is the slowest
    prefills = [
        (min(n, longest), bench.prefill(min(n, longest)))
        for n in LENGTHS
        if n == LENGTHS[0] or (n <= longest and bench.spent < SECONDS)
    ]
    decodes: list[tuple[int, int, float]] = []
    for each, batch in product(CONTEXTS, (1, max_batch)):
        context = min(each, longest)
        if not decodes or (batch * context <= pool and bench.spent < 2 * SECONDS):
            decodes.append((batch, batch * context, bench.decode(batch, context)))
    link = link_of(copy_times(graph.arrays, memory))
    graph.arrays.begin(*size)
    where = f"with ONNX Runtime, {model.dtype}, {model.settings['threads']} threads"
    latency = latency_of(prefills, decodes, model.exported.name, where)
    return Hardware(latency, memory, link, "warm-up")


def copy_times(arrays: Arrays, memory: Memory) -> list[CopyTime]:
    """Copies by size, each way; the median of a few. Empty where one of the pools is: then nothing is ever copied."""
    found: list[CopyTime] = []
    for blocks in COPIES:
        tokens = blocks * memory.block_tokens
        if tokens > min(arrays.longest, memory.device_tokens or 0) or tokens * memory.bytes_per_token > (
            memory.host_bytes or 0
        ):
            break
        if tokens > arrays.room:
            arrays.grow(0, tokens, [0] * arrays.slots)
        out, back = [], []
        arrays.put(0, arrays.take(0, tokens))  # pages that are touched for the first time
        for _ in range(REPEATS):
            began = perf_counter()
            rows = arrays.take(0, tokens)
            between = perf_counter()
            arrays.put(0, rows)
            back.append(perf_counter() - between)
            out.append(between - began)
        size = tokens * memory.bytes_per_token
        found += [CopyTime(True, size, median(out)), CopyTime(False, size, median(back))]
    return sorted(found, key=lambda one: not one.out)


class _Bench:
    def __init__(self, graph: PackedGraph | GenaiGraph) -> None:
        self.graph = graph
        self.spent = 0.0

    def prefill(self, tokens: int) -> float:
        """ms of a whole prompt of so many tokens."""
        self._room(1, tokens)
        chunk = Chunk(0, [i * 7 % self.graph.vocab_size for i in range(tokens)], 0, True)
        return self._timed(lambda: self.graph.run((), (), [chunk]))

    def decode(self, batch: int, context: int) -> float:
        """ms of one decode of so many sequences."""
        self._room(batch, context)
        for array in self.graph.arrays.all:  # pages that are touched for the first time
            array[:batch, :, :context] = 0
        tokens = [i * 7 % self.graph.vocab_size for i in range(batch)]
        return self._timed(lambda: self.graph.run(tokens, [context - 1] * batch, ()))

    def _room(self, slots: int, tokens: int) -> None:
        arrays = self.graph.arrays
        if slots > arrays.slots or tokens > arrays.room:
            arrays.grow(slots, tokens, [0] * arrays.slots)
        for slot in range(slots):
            arrays.write(slot, tokens)

    def _timed(self, call: Callable[[], object]) -> float:
        took: list[float] = []
        while len(took) < TRIES and sum(took) < EACH_S:
            began = perf_counter()
            call()
            took.append(perf_counter() - began)
        self.spent += sum(took)
        return min(took) * 1e3
