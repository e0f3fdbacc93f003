"""What verified guesses cost, as shares of what more decoding jobs would, fitted to iterations that verified some."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from fastserve.engine.backend import VerifyTime
from fastserve.hardware import LinearLatency
from fastserve.hardware.lines import UNMEASURED, Verify
from fastserve.profiler.fit import ENOUGH, Cell, predict_ms

NOISY = 0.08
"""Median miss of timed steps, over their time, above which nothing is concluded."""
Table: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


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
    tokens, reading = _least(a, b)
    told = [one.drafts * one.context for one in mine]
    if max(told) == min(told):  # one shape alone cannot tell the two apart
        reading = UNMEASURED.context
    verify = Verify(tokens, reading)
    return LinearLatency(latency.prefill, latency.decode, latency.name, latency.provenance, verify)


def shares(times: Sequence[VerifyTime]) -> Verify:
    """Of steps that were timed on the idle body; UNMEASURED where they do not tell, or a noisy machine lets no shares
    fit them.
    """
    seconds = {one[:3]: one.seconds for one in times}
    contexts = sorted({one.context for one in times})
    if len(contexts) < 2:
        return UNMEASURED
    least, most = contexts[0], contexts[-1]
    rows, wanted = [], []
    for one in times:
        n, drafts = one.batch, one.batch * one.k
        needed = ((n, one.context, 0), (n, least, 0), (n, most, 0), (n + drafts, least, 0))
        if not one.k or not all(shape in seconds for shape in needed):
            continue
        plain, short, long, many = [seconds[shape] for shape in needed]
        each = max(0.0, long - short) / (n * (most - least))  # s for a token of context
        more = many - short - each * drafts * least
        rows.append((max(0.0, more) / one.seconds, each * drafts * one.context / one.seconds))
        wanted.append((one.seconds - plain) / one.seconds)
    if len(rows) < 2 or max(rows)[0] <= 0:
        return UNMEASURED
    found = _least(np.array(rows), np.array(wanted))
    if float(np.median(np.abs(np.array(rows) @ found - np.array(wanted)))) > NOISY:
        return UNMEASURED
    return Verify(found[0], found[1] if max([read for _, read in rows]) > 0 else UNMEASURED.context)


def _least(a: Table, b: Table) -> tuple[float, float]:
    """Least squares without negative coefficients."""
    best, least = np.zeros(2), float(b @ b)
    for size in (1, 2):
        for columns in combinations(range(2), size):
            chosen = list(columns)
            found = np.linalg.lstsq(a[:, chosen], b)[0]
            error = float(np.square(a[:, chosen] @ found - b).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(2), error
                best[chosen] = found
    return float(best[0]), float(best[1])


def _parts(latency: LinearLatency, cell: Cell) -> tuple[float, float]:
    """ms of the two parts at a share of 1: more jobs of no context, and the reading of theirs."""
    constant, slope = latency.line(cell.batch)
    more, _ = latency.line(cell.batch + round(cell.drafts))
    return max(0, more - constant) / 1e9, slope * cell.drafts * cell.context / cell.batch / 1e9
