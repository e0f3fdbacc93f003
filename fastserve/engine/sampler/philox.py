"""Random numbers that depend on (seed, token index) and nothing else: Philox4x32-10, a counter-based generator.

Source: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Integer arithmetic throughout, so
every machine, device and batch gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LOW: Final = np.uint64(0xFFFFFFFF)
_WORD: Final = np.uint64(32)
_MULTIPLIERS: Final = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL: Final = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_ROUNDS: Final = 10


def philox(counters: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(4, n) counters and (2, n) keys to (4, n) random words; all of 32 bits, held in uint64."""
    even, odd = counters[0::2], counters[1::2]  # words 0 and 2 are multiplied, words 1 and 3 are mixed in
    for _ in range(_ROUNDS):
        products = even * _MULTIPLIERS
        high, low = products >> _WORD, products & _LOW
        even, odd = high[::-1] ^ odd ^ keys, low[::-1]
        keys = (keys + _WEYL) & _LOW
    words = np.empty_like(counters)
    words[0::2], words[1::2] = even, odd
    return words


def uniforms(seeds: Sequence[int], indices: Sequence[int]) -> NDArray[np.float64]:
    """One number in [0, 1), of 53 bits, for each pair of a seed and a token index; both are taken modulo 2^64."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF for seed in seeds], np.uint64)
    count = np.array(indices, np.uint64)
    nought = np.zeros_like(count)
    words = philox(np.stack([count & _LOW, count >> _WORD, nought, nought]), np.stack([key & _LOW, key >> _WORD]))
    bits = (words[0] << np.uint64(21)) | (words[1] >> np.uint64(11))
    numbers: NDArray[np.float64] = np.ldexp(bits.astype(np.float64), -53)
    return numbers
