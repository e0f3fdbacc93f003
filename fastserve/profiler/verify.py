"""What verified guesses cost, as shares of what more decoding jobs would, fitted to iterations that verified some."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from fastserve.hardware import LinearLatency
from fastserve.hardware.lines import UNMEASURED, Verify
from fastserve.profiler.fit import ENOUGH, Cell, predict_ms


def with_verify(latency: LinearLatency, cells: Sequence[Cell]) -> LinearLatency:
    """The same with the shares that fit these iterations best, none negative; itself where too few of them verified
    guesses, or too few decodes did not.

    The time to make the guesses is part of what was measured. Errors are relative to the iteration's whole time.
    """
    mine = [cell for cell in cells if cell.drafts]
    plain = [cell for cell in cells if cell.kind == "decode"]
    if min(sum([cell.seen for cell in kind]) for kind in (mine, plain)) < ENOUGH:
        return latency
    ms = np.array([cell.ms for cell in mine])
    weights = np.sqrt([float(cell.seen) for cell in mine])
    rest = np.array([predict_ms(latency, cell._replace(drafts=0.0)) for cell in mine])
    table = np.array([_parts(latency, cell) for cell in mine])
    a, b = table * (weights / ms)[:, None], (1 - rest / ms) * weights
    best, least = np.zeros(2), float(b @ b)
    for size in (1, 2):
        for columns in combinations(range(2), size):
            chosen = list(columns)
            found = np.linalg.lstsq(a[:, chosen], b)[0]
            error = float(np.square(a[:, chosen] @ found - b).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(2), error
                best[chosen] = found
    told = [one.drafts * one.context for one in mine]
    if max(told) == min(told):  # one shape alone cannot tell the two apart
        best[1] = UNMEASURED.context
    verify = Verify(float(best[0]), float(best[1]))
    return LinearLatency(latency.prefill, latency.decode, latency.name, latency.provenance, verify)


def _parts(latency: LinearLatency, cell: Cell) -> tuple[float, float]:
    """ms of the two parts at a share of 1: more jobs of no context, and the reading of theirs."""
    constant, slope = latency.line(cell.batch)
    more, _ = latency.line(cell.batch + round(cell.drafts))
    return max(0, more - constant) / 1e9, slope * cell.drafts * cell.context / cell.batch / 1e9
