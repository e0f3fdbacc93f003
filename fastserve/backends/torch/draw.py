"""Batch-invariant sampling: top-k, top-p and min-p filters and inverse CDF over integer weights.

A weight is a probability times 2^40, truncated to a whole number and held in floating point. Sums of whole numbers
below 2^53 are exact in float64 in any order. Only one softmax a row depends on the device.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

ONE: Final = 2.0**40
"""The weight of probability 1. Tokens less likely than 1 in 2^40 are never drawn."""

_CACHED: Final = 1 << 18
"""Elements of a slice on a CPU: what stays in its caches is drawn several times as fast."""

_COLDEST: Final = 1e-36
_HOTTEST: Final = 1e36
"""Temperatures beyond these are these: float32 would have them 0 or infinite, and 0 / 0 is no logit."""


def weigh(shifted: Tensor, temperature: Tensor, top_k: list[int], top_p: list[float], min_p: list[float]) -> Tensor:
    """Weights (n, vocab) float32 of logits (n, vocab) float32 whose largest is 0 in each row.

    temperature: (n, 1), above 0. Then top_k (0: off), top_p (1: off) and min_p (0: off), in that order, as transformers
    applies them; tokens that tie with the last one kept are kept.
    """
    scaled = shifted / temperature
    ks = [k if 0 < k < scaled.shape[1] else 0 for k in top_k]
    for k in set(ks) - {0}:
        rows = _rows(scaled, [i for i, wanted in enumerate(ks) if wanted == k])
        chosen = scaled[rows]
        _fill(scaled, rows, chosen < _kth_largest(chosen, k), -torch.inf)
    weights = torch.softmax(scaled, -1).mul_(ONE).floor_()

    narrowed = [i for i, p in enumerate(top_p) if p < 1]
    if narrowed:
        rows = _rows(weights, narrowed)
        chosen = weights[rows]
        p = torch.tensor([top_p[i] for i in narrowed], dtype=torch.float64, device=weights.device)
        _fill(weights, rows, chosen < _nucleus(chosen, p[:, None]), 0.0)
    floored = [i for i, p in enumerate(min_p) if p > 0]
    if floored:
        rows = _rows(weights, floored)
        chosen = weights[rows]
        p = torch.tensor([min_p[i] for i in floored], dtype=torch.float64, device=weights.device)
        _fill(weights, rows, chosen < chosen.amax(-1, keepdim=True) * p[:, None], 0.0)
    return weights


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (n,) int64 by inverse CDF in the order of the ids; uniform: (n, 1) float64 in [0, 1)."""
    below = weights.cumsum(-1, dtype=torch.float64)
    total = below[:, -1:]
    target = torch.minimum((uniform * total).floor_(), total - 1)
    return torch.searchsorted(below, target, right=True).squeeze(1)


def draw(
    logits: Tensor,
    peak: Tensor,
    temperature: list[float],
    top_k: list[int],
    top_p: list[float],
    min_p: list[float],
    uniform: Tensor,
) -> Tensor:
    """Tokens (n,) int64 of logits (n, vocab) float32 with their largest, (n, 1); uniform: (n,) float64 in [0, 1).

    See weigh() and pick(). A row with NaN gives any number, the others what they give alone.
    """
    heat = torch.tensor([min(max(t, _COLDEST), _HOTTEST) for t in temperature], device=logits.device)[:, None]
    uniform = uniform.to(logits.device)[:, None]
    count, vocab = logits.shape
    step = count if logits.is_cuda else max(1, _CACHED // vocab)
    parts = []
    for first in range(0, count, step):
        part = slice(first, first + step)
        weights = weigh(logits[part] - peak[part], heat[part], top_k[part], top_p[part], min_p[part])
        parts.append(pick(weights, uniform[part]))
    return torch.cat(parts)


def _rows(matrix: Tensor, rows: list[int]) -> Tensor | slice:
    """What picks these rows; a slice, which copies nothing, for all of them."""
    return slice(None) if len(rows) == len(matrix) else torch.tensor(rows, device=matrix.device)


def _fill(matrix: Tensor, rows: Tensor | slice, where: Tensor, value: float) -> None:
    """In place, in these rows."""
    matrix[rows] = torch.where(where, value, matrix[rows])  # on a CPU several times as fast as masked_fill_


def _kth_largest(values: Tensor, k: int) -> Tensor:
    """(n, 1). On a CPU numpy's partition is several times as fast as topk; the value is the same."""
    if values.is_cpu:
        place = values.shape[1] - k
        return torch.from_numpy(np.partition(values.numpy(), place, axis=-1)[:, place : place + 1])
    return values.topk(k, -1).values[:, -1:]


def _nucleus(weights: Tensor, p: Tensor) -> Tensor:
    """(n, 1): the smallest weight kept, that is the last one with less than p of the total strictly before it."""
    ordered = _descending(weights)
    above = ordered.cumsum(-1, dtype=torch.float64)
    kept = (above - ordered < p * above[:, -1:]).sum(-1, keepdim=True)
    return ordered.gather(-1, kept.clamp(min=1) - 1)  # a row of NaN keeps none


def _descending(values: Tensor) -> Tensor:
    """Each row sorted. On a CPU numpy's sort is ten times as fast; the values are the same."""
    if values.is_cpu:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)
    return values.sort(-1, descending=True).values
