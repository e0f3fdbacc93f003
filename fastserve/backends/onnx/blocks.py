"""Weights in blocks of few bits with a scale and a nought each, laid out as MatMulNBits reads them.

A block's range is not taken as it is: of ranges that are cut at both ends by the same share the one with the least
squared error is taken, since the largest weights of a block are few.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 32
"""Weights that share a scale."""

CUTS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


class Blocks(NamedTuple):
    """packed: (n, blocks, bytes), the lower half of a byte first. scales: (n * blocks,). noughts: packed likewise."""

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    noughts: NDArray[np.uint8]


def in_blocks(weight: NDArray[np.float32], bits: int) -> Blocks:
    """weight: (k, n); a block is of a column. bits: 4 or 8."""
    k, n = weight.shape
    count = -(-k // BLOCK)
    columns = np.zeros((n, count * BLOCK), np.float32)
    columns[:, :k] = weight.T
    parts = columns.reshape(n * count, BLOCK)
    most = (1 << bits) - 1
    low, high = np.minimum(parts.min(1), 0), np.maximum(parts.max(1), 0)
    best = np.full(len(parts), np.inf, np.float32)
    scales, noughts = np.ones(len(parts), np.float32), np.zeros(len(parts), np.float32)
    for cut in CUTS:
        scale = (high - low) * np.float32(cut / most)
        scale[scale == 0] = 1
        nought = np.clip(np.rint(-low * np.float32(cut) / scale), 0, most)
        error = np.square(_near(parts, scale, nought, most) * scale[:, None] - parts).sum(1)
        better = error < best
        best[better], scales[better], noughts[better] = error[better], scale[better], nought[better]
    whole = (_near(parts, scales, noughts, most) + noughts[:, None]).astype(np.uint8)
    if bits == 8:
        return Blocks(whole.reshape(n, count, BLOCK), scales, noughts.astype(np.uint8))
    even = np.zeros((n, count + count % 2), np.uint8)
    even[:, :count] = noughts.reshape(n, count)
    packed = (whole[:, ::2] | whole[:, 1::2] << 4).astype(np.uint8).reshape(n, count, BLOCK // 2)
    return Blocks(packed, scales, (even[:, ::2] | even[:, 1::2] << 4).astype(np.uint8).ravel())


def _near(
    parts: NDArray[np.float32], scale: NDArray[np.float32], nought: NDArray[np.float32], most: int
) -> NDArray[np.float32]:
    """Steps from the nought to the nearest that there is."""
    near: NDArray[np.float32] = np.rint(parts / scale[:, None])
    return np.clip(near, -nought[:, None], most - nought[:, None])
