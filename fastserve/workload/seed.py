"""Seeds: independent random streams for each component from one non-negative integer."""

from __future__ import annotations

import numpy as np

from fastserve.workload.errors import TraceError


def seed_sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """The root of the streams of `seed`; a key names one branch, the same whatever other branches are used."""
    if seed < 0:
        raise TraceError(f"a seed must be a non-negative integer, not {seed}")
    return np.random.SeedSequence(seed, spawn_key=key)
