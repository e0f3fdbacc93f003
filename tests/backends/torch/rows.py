"""Packed rows made by hand: sequences over shuffled blocks, advanced by any chunks, without a Scheduler."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastserve.backends.torch.input_batch import InputBatch


@dataclass
class Sequence:
    """tokens: all known ones; done: how many of them have K and V in the cache."""

    tokens: list[int]
    done: int = 0
    blocks: list[int] = field(default_factory=list)


class Table:
    """The physical blocks of a pool, handed out in a shuffled order."""

    def __init__(self, blocks: int, block_tokens: int, seed: int = 0) -> None:
        self.size = block_tokens
        self.free = list(range(blocks))
        random.Random(seed).shuffle(self.free)

    def step(self, work: list[tuple[Sequence, int]], wanted: list[int] | None = None) -> InputBatch:
        """The next tokens of each: (sequence, tokens), those with one token first. wanted: each one's last row."""
        work = sorted(work, key=lambda pair: pair[1] != 1)
        tokens, positions, slots, starts, lengths = [], [], [], [0], []
        for sequence, count in work:
            end = sequence.done + count
            while len(sequence.blocks) * self.size < end:
                sequence.blocks.append(self.free.pop())
            at = range(sequence.done, end)
            tokens += sequence.tokens[sequence.done : end]
            positions += at
            slots += [sequence.blocks[i // self.size] * self.size + i % self.size for i in at]
            starts.append(len(tokens))
            lengths.append(end)
            sequence.done = end
        widest = max(len(sequence.blocks) for sequence, _ in work)
        tables = [sequence.blocks + [0] * (widest - len(sequence.blocks)) for sequence, _ in work]
        if wanted is None:
            wanted = [end - 1 for end in starts[1:]]
        return InputBatch(
            tokens=torch.tensor(tokens),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            starts=torch.tensor(starts, dtype=torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            tables=torch.tensor(tables, dtype=torch.int32),
            decodes=sum(count == 1 for _, count in work),
            wanted=torch.tensor(wanted, dtype=torch.int64),
        )


def dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of one whole sequence, by the formula and in float64: (n, heads, dim) to (n, kv_heads, dim)."""
    group = query.shape[1] // key.shape[1]
    q, k, v = query.double(), key.double().repeat_interleave(group, 1), value.double().repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    row, column = torch.arange(len(q))[:, None], torch.arange(len(q))
    hidden = column > row
    if window:
        hidden |= column <= row - window
    weights = scores.masked_fill(hidden, -torch.inf).exp()
    whole = weights.sum(-1, keepdim=True)
    if sinks is not None:
        whole = whole + sinks.double().exp()[:, None, None]
    return torch.einsum("hqk,khd->qhd", weights / whole, v)
