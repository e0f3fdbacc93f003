"""Paged attention in plain PyTorch: the specification, and the fallback where no kernel is available.

`write` and `attend` have the signatures of fastserve.backends.torch.native. On a CPU a row's result depends on
its own sequence alone: each is gathered and attended to by itself. Elsewhere the decodes share one padded call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastserve.backends.torch.input_batch import InputBatch, Span

TILE = 128
"""Query rows taken at once on a CPU: a tile sees no later keys, so a long prompt costs half, and its mask stays small.
"""

WIDE_TILE = 1024
"""The same on an accelerator, where each call costs a launch."""


def write(key: Tensor, value: Tensor, pool: Tensor, layer: int, slots: Tensor) -> None:
    """Puts K and V of each token into its slot. key, value: (T, kv_heads, head_dim), any strides."""
    size = pool.shape[4]
    block, offset = slots // size, slots % size
    pool[:, layer, 0][block, :, offset] = key
    pool[:, layer, 1][block, :, offset] = value


def attend(
    query: Tensor,
    pool: Tensor,
    layer: int,
    step: InputBatch,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of each row to its sequence. query: (T, heads, head_dim), any strides; the result is contiguous.

    heads is a multiple of the pool's kv_heads; query head h reads kv head h // (heads // kv_heads). window: a row sees
    that many keys, its own included. softcap: scores s become softcap * tanh(s / softcap). sinks: (heads,), a score
    without a value in each row's softmax.
    """
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    together = step.decodes if pool.device.type != "cpu" else 0
    if together:
        out[:together] = attend_decodes(query[:together], pool, layer, step, scale, window, softcap, sinks)
    tile = TILE if pool.device.type == "cpu" else WIDE_TILE
    kv_heads = pool.shape[3]
    for index, span in enumerate(step.spans[together:], together):
        first = _first_key(span.length - (span.end - span.first), window) // pool.shape[4]  # the first block needed
        key, value = _gather(pool, layer, step, index, first)
        skipped = first * pool.shape[4]
        for at in range(span.first, span.end, tile):
            end = min(at + tile, span.end)
            position = span.length - (span.end - at)  # of row `at`
            low, high = _first_key(position, window) - skipped, position + end - at - skipped
            rows = query[at:end].unflatten(1, (kv_heads, -1))  # (rows, kv_heads, group, head_dim)
            keys, values = key[:, None, low:high], value[:, None, low:high]  # (kv_heads, 1, keys, head_dim)
            if end - at == 1:  # the heads of a group are the rows of one small product
                spread = sinks.view(kv_heads, 1, -1, 1) if sinks is not None else None
                result = _softmax(rows.transpose(0, 1), keys, values, None, scale, softcap, spread)
                out[at] = result.reshape(out.shape[1:])
            else:
                spread = sinks.view(kv_heads, -1, 1, 1) if sinks is not None else None
                rows = rows.permute(1, 2, 0, 3)
                group = (-1, rows.shape[1], -1, -1)
                mask = _mask(step, span, at, end, low + skipped, window)
                if pool.is_cuda and softcap is None and sinks is None:
                    mask = _added(step, ("added", at, window), mask, query.dtype)
                result = _softmax(rows, keys.expand(group), values.expand(group), mask, scale, softcap, spread)
                out[at:end] = result.flatten(0, 1).transpose(0, 1)
    return out


def attend_decodes(
    query: Tensor,
    pool: Tensor,
    layer: int,
    step: InputBatch,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The decodes of a step in one call, padded to the longest. query: (decodes, heads, head_dim)."""
    count, (kv_heads, size, dim) = step.decodes, pool.shape[3:]
    spans = step.spans[:count]
    first = min(_first_key(span.length - 1, window) for span in spans) // size
    last = max(-(-span.length // size) for span in spans)
    seen = step.memo.get(("seen", window))  # (decodes, 1, 1, keys): which keys each row sees
    hidden = step.memo.get(("hidden", window))  # (decodes, 1, 1, keys, 1): the others
    rows = step.memo.get(("rows", window))
    if seen is None or hidden is None or rows is None:
        at = torch.arange(first * size, last * size, device=pool.device)
        length = step.lengths[:count, None]
        seen = at < length
        if window:
            seen &= at >= length - window
        seen = step.memo["seen", window] = seen[:, None, None]
        hidden = step.memo["hidden", window] = ~seen.view(count, 1, 1, -1, 1)
        rows = step.memo["rows", window] = _rows(pool, step.tables[:count, first:last])
    both = pool.view(-1, size * dim).index_select(0, rows + layer * 2 * kv_heads)
    both = both.view(count, 2, kv_heads, -1, dim)
    # What lies beyond a sequence's end is anybody's: 0 times a NaN would reach this row.
    both.masked_fill_(hidden, 0)
    mask = seen
    if pool.is_cuda and softcap is None and sinks is None:
        mask = _added(step, ("added", window), seen, query.dtype)
    spread = sinks.view(1, kv_heads, -1, 1) if sinks is not None else None
    result = _softmax(
        query.unflatten(1, (kv_heads, -1)), both[:, 0], both[:, 1], mask, scale, softcap, spread
    )  # (decodes, kv_heads, group, head_dim)
    return result.reshape(query.shape)


def _first_key(position: int, window: int | None) -> int:
    """The first key that the row at `position` sees."""
    return max(0, position + 1 - window) if window else 0


def _rows(pool: Tensor, tables: Tensor) -> Tensor:
    """Where K and V of layer 0 of these blocks lie among the pool's rows of (token, dim): for each table
    (2, kv_heads, blocks), flat.
    """
    layers, kv_heads = pool.shape[1], pool.shape[3]
    which = torch.arange(2 * kv_heads, device=pool.device).view(2, kv_heads, 1)
    return (tables.long()[..., None, None, :] * (layers * 2 * kv_heads) + which).flatten()


def _gather(pool: Tensor, layer: int, step: InputBatch, index: int, first: int) -> tuple[Tensor, Tensor]:
    """K and V of sequence `index` from its block `first` on: each (kv_heads, tokens, head_dim)."""
    kv_heads, size, dim = pool.shape[3:]
    length = step.spans[index].length
    rows = step.memo.get(("rows", index, first))
    if rows is None:
        rows = step.memo["rows", index, first] = _rows(pool, step.tables[index, first : -(-length // size)])
    both = pool.view(-1, size * dim).index_select(0, rows + layer * 2 * kv_heads)
    both = both.view(2, kv_heads, -1, dim)[:, :, : length - first * size]
    return both[0], both[1]


def _mask(step: InputBatch, span: Span, at: int, end: int, low: int, window: int | None) -> Tensor:
    """(rows, keys): whether rows at:end of a sequence see its keys from `low` to the last row's own."""
    mask = step.memo.get(("mask", at, window))
    if mask is None:
        position = span.length - (span.end - at)
        own = torch.arange(position, position + end - at, device=step.tokens.device)[:, None]
        key = torch.arange(low, position + end - at, device=step.tokens.device)
        mask = key <= own
        if window:
            mask &= key > own - window
        step.memo["mask", at, window] = mask
    return mask


def _added(step: InputBatch, key: object, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as a GPU's attention adds it to its scores: 0 where `seen`, else -inf. Made once for all layers, and
    with rows that begin at multiples of 16, since PyTorch would convert and align it in each.
    """
    added = step.memo.get(key)
    if added is None:
        width = seen.shape[-1]
        wide = torch.full((*seen.shape[:-1], -(-width // 16) * 16), float("-inf"), dtype=dtype, device=seen.device)
        added = step.memo[key] = wide[..., :width].masked_fill_(seen, 0)
    return added


def _softmax(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """Attention of (batch, heads, rows, head_dim) to (batch, heads, keys, head_dim); sinks broadcast to a column."""
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = torch.matmul(query, key.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().expand(*scores.shape[:-1], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[-2]]
    return torch.matmul(weights.to(value.dtype), value)
