"""InputBatch: the sequences of an iteration packed into one row, made once and shared by all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Span(NamedTuple):
    """One sequence of a step: its rows are first:end; `length` tokens are in its context once they are written."""

    first: int
    end: int
    length: int


@dataclass(slots=True, eq=False)
class InputBatch:
    """T tokens of n sequences in one row: those that decode first, one row each, then the prefill chunks.

    A job that verifies drafts has a sequence for its newest token and one for each draft, with one table: K and V of
    all rows are written before any is attended to, so each sees those before it.

    All tensors are made on the CPU; Model.forward sends them to its device. Physical block numbers index Cache.pool.
    """

    tokens: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64
    slots: Tensor  # (T,) int64: block * block_tokens + offset, where K and V of each token are written
    starts: Tensor  # (n + 1,) int32: the rows of sequence i are starts[i]:starts[i + 1]
    lengths: Tensor  # (n,) int32: tokens in the context of sequence i after this step, its last position + 1
    tables: Tensor  # (n, widest) int32: physical block numbers, padded with 0
    decodes: int  # sequences 0..decodes - 1 have one row each
    wanted: Tensor  # (m,) int64: the rows whose logits are wanted
    adapters: Tensor | None = None  # (T,) int32: slot of each row's adapter, -1 for none; None: nobody has one
    memo: dict[object, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Index tensors and masks that the layers share: the attention fills it at the first layer that needs them."""
    _spans: list[Span] = field(default_factory=list, init=False, repr=False)
    _adapted: dict[int, Tensor] | None = field(default=None, init=False, repr=False)

    @property
    def spans(self) -> list[Span]:
        """The sequences, in order."""
        if not self._spans:
            starts, lengths = self.starts.tolist(), self.lengths.tolist()
            self._spans = [Span(a, b, n) for a, b, n in zip(starts[:-1], starts[1:], lengths, strict=True)]
        return self._spans

    def to(self, device: torch.device) -> InputBatch:
        """The same step with its tensors on `device`; itself where they are there already."""
        if self.tokens.device == device:
            return self
        names = ("tokens", "positions", "slots", "starts", "lengths", "tables", "wanted")
        there = replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})
        if self.adapters is not None:
            there._adapted = {slot: rows.to(device, non_blocking=True) for slot, rows in self.adapted().items()}
        there._spans = self.spans  # known on the host, so that no layer has to wait for the device
        return there

    def adapted(self) -> dict[int, Tensor]:
        """Slot -> the rows of its adapter, int64, on the device of the step. Made once a step."""
        if self._adapted is None:
            slots = [] if self.adapters is None else self.adapters.unique().tolist()
            self._adapted = {slot: (self.adapters == slot).nonzero()[:, 0] for slot in slots if slot >= 0}
        return self._adapted


class Rows(NamedTuple):
    """The part of a step that is one sequence's: its next tokens, in the order of their positions.

    table: its physical blocks from position 0 on, up to the last of these tokens. wanted: the logits after the last.
    """

    tokens: Sequence[int]
    first: int  # position of tokens[0]
    table: Sequence[int]
    wanted: bool
    adapter: int = -1  # its slot


def pack(decodes: Sequence[Rows], chunks: Sequence[Rows], block: int, adapted: bool = False) -> InputBatch:
    """decodes: each token is a sequence of its own, whose logits are wanted. block: tokens in a block. adapted: whether
    any may have an adapter. There must be at least one sequence.
    """
    at = [rows.first for rows in decodes]
    if any(len(rows.tokens) > 1 for rows in decodes):
        decodes, at = _spread(decodes)
    tokens = [np.array([rows.tokens[0] for rows in decodes], np.int64)]
    positions = [np.array(at, np.int64)]
    slots = [
        np.array([rows.table[p // block] * block + p % block for rows, p in zip(decodes, at, strict=True)], np.int64)
    ]
    starts = list(range(len(decodes) + 1))
    lengths = [p + 1 for p in at]
    wanted = list(range(len(decodes)))
    for rows in chunks:
        span = np.arange(rows.first, rows.first + len(rows.tokens), dtype=np.int64)
        tokens.append(np.array(rows.tokens, np.int64))
        positions.append(span)
        slots.append(np.array(rows.table, np.int64)[span // block] * block + span % block)
        starts.append(starts[-1] + len(rows.tokens))
        lengths.append(rows.first + len(rows.tokens))
        if rows.wanted:
            wanted.append(starts[-1] - 1)
    widths = [-(-length // block) for length in lengths]
    tables = np.zeros((len(lengths), max(widths)), np.int32)
    for i, (rows, width) in enumerate(zip([*decodes, *chunks], widths, strict=True)):
        tables[i, :width] = rows.table[:width]
    return InputBatch(
        tokens=torch.from_numpy(np.concatenate(tokens)),
        positions=torch.from_numpy(np.concatenate(positions)),
        slots=torch.from_numpy(np.concatenate(slots)),
        starts=torch.tensor(starts, dtype=torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        tables=torch.from_numpy(tables),
        decodes=len(decodes),
        wanted=torch.tensor(wanted, dtype=torch.int64),
        adapters=_adapters(decodes, chunks) if adapted else None,
    )


def _adapters(decodes: Sequence[Rows], chunks: Sequence[Rows]) -> Tensor | None:
    """The slot of each row; None where nobody has an adapter."""
    slots = [(rows.adapter, len(rows.tokens)) for rows in (*decodes, *chunks)]
    if all(slot < 0 for slot, _ in slots):
        return None
    return torch.from_numpy(np.repeat(*np.array(slots, np.int32).T))


def _spread(decodes: Sequence[Rows]) -> tuple[list[Rows], list[int]]:
    """One for each token, and where it stands."""
    spread = [
        Rows((token,), at, table, True, adapter)
        for tokens, first, table, _, adapter in decodes
        for at, token in enumerate(tokens, first)
    ]
    return spread, [rows.first for rows in spread]
