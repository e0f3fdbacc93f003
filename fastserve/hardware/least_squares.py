"""Least squares without negative coefficients: what times are fitted with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fit(rows: Sequence[Sequence[float]], times: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Coefficients, none negative, that minimise the squares of the relative errors, each times its weight (1).

    times: above 0. Every choice of columns that are not 0 is tried: there are six at most.
    """
    wanted = np.ones(len(times)) if weights is None else np.sqrt(np.array(weights, float))
    a: NDArray[Any] = np.array(rows, float) * (wanted / np.array(times, float))[:, None]
    best, least = np.zeros(a.shape[1]), float(wanted @ wanted) + 1
    for size in range(1, min(a.shape) + 1):
        for columns in combinations(range(a.shape[1]), size):
            chosen = list(columns)
            found = np.linalg.lstsq(a[:, chosen], wanted)[0]
            error = float(np.square(a[:, chosen] @ found - wanted).sum())
            if (found >= 0).all() and error < least:
                least = error
                best = np.zeros(a.shape[1])
                best[chosen] = found
    return [float(value) for value in best]
