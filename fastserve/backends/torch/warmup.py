"""Warm-up: measures the latency model for policies at load, in about a second.

Prefills of a few lengths and decodes of a few batches are fitted by a line each, with coefficients that are never
negative; copies by a rate and a time each. It is an approximation: `latency=FILE` or a stored profile replaces it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median
from time import perf_counter, perf_counter_ns, sleep

import torch

from fastserve.backends.torch.input_batch import InputBatch, Rows, pack
from fastserve.backends.torch.kv_cache import Cache, Ticket
from fastserve.backends.torch.model import Model
from fastserve.backends.torch.platform import device_name
from fastserve.engine.backend import CopyTime, VerifyTime
from fastserve.engine.warmup import latency_of
from fastserve.hardware import Hardware, Link, Memory
from fastserve.hardware.lines import Verify

SECONDS = 1.0
EACH_S, TRIES = 0.08, 5
"""A step is tried again while it has taken less than so long in all, so often at most, and its least time counts:
beside another program one try may take ten times as long, and a policy's quanta would be of that length.
"""
LENGTHS = (16, 64, 256, 128, 512, 1024)  # of prefills, in the order in which they are tried
CONTEXTS = (32, 512)  # of each decoding sequence

VERIFIED = ((1, 1), (1, 4), (4, 1), (4, 4), (16, 1), (16, 4))
"""(jobs, guesses of each) of steps that verify some, at both CONTEXTS."""

COPIES = (1, 2, 4, 8, 16, 32, 64, 128)  # blocks
SPREAD = 256  # blocks of each pool that a measured copy takes its own from
REPEATS = 7
REST_S = 0.002  # before a copy that is timed


def measure(model: Model, cache: Cache, memory: Memory, max_batch: int) -> Hardware:
    """On an empty cache, whose contents are lost. memory: the pools, handed on."""
    bench = _Bench(model, cache)
    longest = min(model.max_model_len, cache.blocks * cache.block_tokens)
    prefills: list[tuple[int, float]] = []
    decodes: list[tuple[int, int, float]] = []
    bench.prefill(min(LENGTHS[0], longest))  # the first forward pass of a process is the slowest
    for i in range(max(len(LENGTHS), 4)):
        if i < len(LENGTHS) and (LENGTHS[i] <= longest or not prefills):
            n = min(LENGTHS[i], longest)
            prefills.append((n, bench.prefill(n)))
        if i < 4:
            batch = max_batch if i % 2 else 1
            context = min(CONTEXTS[i // 2], longest)
            if batch * context <= cache.blocks * cache.block_tokens or not decodes:
                decodes.append((batch, batch * context, bench.decode(batch, context)))
        if bench.spent > SECONDS and len(prefills) > 1 and len(decodes) > 1:
            break
    dtype = str(model.dtype).removeprefix("torch.")
    where = f"on {device_name(model.device)}, {dtype}, {torch.get_num_threads()} threads"
    guess = Verify(1.0, 1.0)  # it is a row of its own, see pack(): it costs what another job would
    latency = latency_of(prefills, decodes, model.name, where, guess)
    return Hardware(latency, memory, _link(cache), "warm-up")


class _Bench:
    def __init__(self, model: Model, cache: Cache) -> None:
        self.model = model
        self.cache = cache
        self.spent = 0.0

    def prefill(self, tokens: int) -> float:
        """ms of a whole prompt of so many tokens."""
        return self._run(pack([], [self._rows(0, 0, tokens)], self.cache.block_tokens))

    def decode(self, batch: int, context: int) -> float:
        """ms of one decode of so many sequences; they may share their blocks, which changes no time."""
        rows = [self._rows(i, context - 1, 1) for i in range(batch)]
        return self._run(pack(rows, [], self.cache.block_tokens))

    def verify(self, batch: int, context: int, k: int) -> float:
        """ms of a step in which so many sequences verify k guesses each."""
        return self._run(pack([self._rows(i, context - 1, k + 1) for i in range(batch)], [], self.cache.block_tokens))

    def _rows(self, turn: int, first: int, tokens: int) -> Rows:
        cache = self.cache
        needed = -(-(first + tokens) // cache.block_tokens)
        table = [(turn * needed + i) % cache.blocks for i in range(needed)]
        return Rows([i * 7 % self.model.vocab_size for i in range(tokens)], first, table, True)

    @torch.inference_mode()
    def _run(self, step: InputBatch) -> float:
        took: list[float] = []
        while len(took) < TRIES and sum(took) < EACH_S:
            began = perf_counter_ns()
            logits = self.model.forward(step, self.cache)
            logits.argmax(-1).tolist()  # waits for the device
            took.append((perf_counter_ns() - began) / 1e9)
        self.spent += sum(took)
        return min(took) * 1e3


def verify_times(model: Model, cache: Cache, max_batch: int) -> list[VerifyTime]:
    """On an empty cache, whose contents are lost. Shapes that are too large for it are left out."""
    bench = _Bench(model, cache)
    room = cache.blocks * cache.block_tokens
    shapes: dict[tuple[int, int, int], None] = {}
    for batch, k in VERIFIED:
        if batch > max_batch:
            continue
        for context in CONTEXTS:
            if max(batch, 1) * (context + k) <= room and context + k <= model.max_model_len:
                shapes |= dict.fromkeys(((batch, context, 0), (batch * (k + 1), CONTEXTS[0], 0), (batch, context, k)))
    return [VerifyTime(n, context, k, bench.verify(n, context, k) / 1e3) for n, context, k in shapes]


def _link(cache: Cache) -> Link:
    """From copies of one block and of many."""
    many = min(64, cache.blocks, cache.host_blocks)
    if many < 2:
        return Link()
    numbers = list(range(many))

    def seconds(copy: Callable[[list[int], list[int]], Ticket], blocks: list[int]) -> float:
        copy(blocks, blocks).wait()  # memory that is touched for the first time, a thread that starts
        began = perf_counter_ns()
        copy(blocks, blocks).wait()
        return (perf_counter_ns() - began) / 1e9

    rates = []
    latencies = []
    for copy in (cache.copy_out, cache.copy_in):
        one, all_ = seconds(copy, numbers[:1]), seconds(copy, numbers)
        per_block = max((all_ - one) / (many - 1), all_ / many / 10, 1e-9)
        rates.append(max(1, round(cache.block_bytes / per_block)))
        latencies.append(max(0, round((one - per_block) * 1e9)))
    return Link(rates[0], rates[1], max(latencies))


def copy_times(cache: Cache) -> list[CopyTime]:
    """Copies by size, each way, on an idle engine. Contents of the pools are lost.

    As a busy engine meets them: blocks from anywhere in up to SPREAD of each pool, and a copying thread that has gone
    to sleep since its last copy. The median of a few, since in so few one hiccup would be all that is seen. Empty where
    one of the pools is: then nothing is ever copied.
    """
    found: list[CopyTime] = []
    if not cache.blocks or not cache.host_blocks:
        return found
    rng = random.Random(0)
    device, host = (range(min(SPREAD, pool)) for pool in (cache.blocks, cache.host_blocks))
    for block in range(max(len(device), len(host))):  # a first use takes longer, and happens once
        cache.copy_in([block % len(host)], [block % len(device)]).wait()
        cache.copy_out([block % len(device)], [block % len(host)]).wait()
    for out, copy, sources, targets in ((True, cache.copy_out, device, host), (False, cache.copy_in, host, device)):
        for blocks in COPIES:
            if blocks <= min(len(device), len(host)):
                seconds = median(
                    _timed(copy, rng.sample(sources, blocks), rng.sample(targets, blocks)) for _ in range(REPEATS)
                )
                found.append(CopyTime(out, blocks * cache.block_bytes, seconds))
    return found


def _timed(copy: Callable[[list[int], list[int]], Ticket], sources: list[int], targets: list[int]) -> float:
    sleep(REST_S)
    began = perf_counter()
    copy(sources, targets).wait()
    return perf_counter() - began
