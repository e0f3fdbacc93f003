"""Its times, measured on an empty context: a latency model in seconds, copies by size, bytes of a token's KV."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from statistics import median
from time import perf_counter
from typing import Final

from fastserve.backends.llamacpp.context import Context
from fastserve.backends.llamacpp.model import Model
from fastserve.engine.backend import CopyTime
from fastserve.engine.sampler.jobs import Part
from fastserve.engine.warmup import latency_of, link_of
from fastserve.hardware import Hardware, Memory
from fastserve.sched.job import Job

SECONDS: Final = 2.0
"""After which no further point is measured, once there are two of each kind."""

EACH_S, TRIES = 0.08, 3
"""A step is tried again while it has taken less than so long in all, so often at most; its least time counts."""

LENGTHS: Final = (16, 128, 64, 256, 512)  # of prefills, in the order in which they are tried
CONTEXTS: Final = (32, 256)  # of each decoding sequence
COPIES: Final = (1, 8, 32, 128)  # blocks
REPEATS: Final = 5

_NOBODY: Final = Job(-1, 0, 1, 1)


def bytes_per_token(model: Model) -> int:
    """Of its KV, as a copied state has it. A context is made for it, which tries the model on two tokens, too."""
    context = Context(model, 256, 1, 1)
    try:
        sizes = []
        for position in range(2):
            context.decode([(0, _part(model, position, 1))])
            sizes.append(len(context.copy_of(0)))
        return sizes[1] - sizes[0]
    finally:
        context.free()


def measure(context: Context, memory: Memory, max_batch: int) -> Hardware:
    """On an empty context, which is empty again then. memory: the pools, handed on."""
    bench = _Bench(context)
    model = context.model
    longest = min(model.max_model_len, context.cells)
    bench.prefill(min(LENGTHS[0], longest))  # the first pass of a context is the slowest
    prefills: list[tuple[int, float]] = []
    decodes: list[tuple[int, int, float]] = []
    for n in LENGTHS:
        if (n <= longest and (len(prefills) < 2 or bench.spent < SECONDS / 2)) or not prefills:
            n = min(n, longest)
            prefills.append((n, bench.prefill(n)))
    for each, batch in product(CONTEXTS, (1, max_batch)):
        if batch * each <= context.cells and each <= longest and (len(decodes) < 2 or bench.spent < SECONDS):
            decodes.append((batch, batch * each, bench.decode(batch, each)))
    decodes = decodes or [(1, 1, bench.decode(1, 1))]
    where = f"with llama.cpp, {model.weights}, {model.threads} threads"
    latency = latency_of(prefills, decodes, model.name, where)
    return Hardware(latency, memory, link_of(copy_times(context, memory, (1, 32))), "warm-up")


def copy_times(context: Context, memory: Memory, sizes: tuple[int, ...] = COPIES) -> list[CopyTime]:
    """Copies by size, each way; the median of a few. Empty where there is no host pool."""
    found: list[CopyTime] = []
    if not memory.host_bytes:
        return found
    bench = _Bench(context)
    for blocks in sizes:
        tokens = blocks * memory.block_tokens
        if tokens > min(context.cells, context.model.max_model_len):
            break
        out, back = [], []
        bench.fill(0, tokens)
        for _ in range(REPEATS):
            began = perf_counter()
            state = context.take_out(0)
            between = perf_counter()
            context.put_in(0, state)
            out.append(between - began)
            back.append(perf_counter() - between)
        context.clear()
        size = tokens * memory.bytes_per_token
        found += [CopyTime(True, size, median(out)), CopyTime(False, size, median(back))]
    return sorted(found, key=lambda one: not one.out)


class _Bench:
    """spent: seconds in all, the filling of caches included."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.spent = 0.0

    def prefill(self, tokens: int) -> float:
        """ms of a whole prompt of so many tokens."""
        return self._least(self.context.clear, lambda: self.fill(0, tokens))

    def decode(self, batch: int, context: int) -> float:
        """ms of one decode of so many sequences."""
        it = self.context
        it.clear()
        if context > 1:
            self._timed(lambda: self.fill(0, context - 1))
            state = it.copy_of(0)
            for row in range(1, batch):
                it.put_in(row, state)
        parts = [(row, _part(it.model, context - 1, 1)) for row in range(batch)]

        def back() -> None:
            for row in range(batch):
                it.remove(row, context - 1)

        return self._least(back, lambda: it.decode(parts))

    def fill(self, row: int, tokens: int) -> None:
        self.context.decode([(row, _part(self.context.model, 0, tokens))])

    def _least(self, before: Callable[[], object], call: Callable[[], object]) -> float:
        """ms of the quickest of a few; the context is empty then."""
        took: list[float] = []
        while len(took) < TRIES and sum(took) < EACH_S:
            before()
            took.append(self._timed(call))
        self.context.clear()
        return min(took) * 1e3

    def _timed(self, call: Callable[[], object]) -> float:
        began = perf_counter()
        call()
        took = perf_counter() - began
        self.spent += took
        return took


def _part(model: Model, first: int, tokens: int) -> Part:
    """Any tokens, the last of which yields."""
    return Part(_NOBODY, [(first + i) * 7 % model.vocab_size for i in range(tokens)], first, 1)
