"""Step: attention metadata of one packed batch, made once an iteration and shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """One sequence of a step: its rows are first:end; `length` tokens are in its context once they are written."""

    first: int
    end: int
    length: int


@dataclass(slots=True, eq=False)
class Step:
    """T tokens of n sequences in one row: those that decode first, one row each, then the prefill chunks.

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
    memo: dict[object, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Index tensors and masks that the layers share: the attention fills it at the first layer that needs them."""
    _spans: list[Span] = field(default_factory=list, init=False, repr=False)

    @property
    def spans(self) -> list[Span]:
        """The sequences, in order."""
        if not self._spans:
            starts, lengths = self.starts.tolist(), self.lengths.tolist()
            self._spans = [Span(a, b, n) for a, b, n in zip(starts[:-1], starts[1:], lengths, strict=True)]
        return self._spans

    def to(self, device: torch.device) -> Step:
        """The same step with its tensors on `device`; itself where they are there already."""
        if self.tokens.device == device:
            return self
        names = ("tokens", "positions", "slots", "starts", "lengths", "tables", "wanted")
        there = replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})
        there._spans = self.spans  # known on the host, so that no layer has to wait for the device
        return there
