"""Least-squares fit of a linear latency model to measured iterations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log2
from typing import NamedTuple

import numpy as np

from fastserve.hardware import DecodePiece, LatencyModel, LinearLatency, PrefillFit
from fastserve.hardware.least_squares import fit
from fastserve.hardware.lines import UNMEASURED

ENOUGH = 20
"""Iterations of a kind; from fewer nothing is concluded of what guesses cost."""

LINEAR_TOLERANCE = 0.05
"""Relative error of a straight line at any batch size above which decodes are fitted piecewise by batch size."""


class Iteration(NamedTuple):
    """One iteration, from one plan to the next, without its stall for copies."""

    batch: int  # jobs that decode
    context: int  # tokens that they attend to, summed
    tokens: int  # of its prefill chunks
    squared: int  # end^2 - start^2, summed over the chunks
    ms: float
    at: float = 0.0  # s on the engine's clock: when it was planned
    drafts: int = 0  # guesses that its jobs verified


class Cell(NamedTuple):
    """Means over iterations of similar shape. Means, not medians: outliers of the machine are real time."""

    batch: int
    context: float
    tokens: float
    squared: float
    ms: float
    spread: float  # mean relative distance of its iterations from ms
    seen: int  # iterations
    drafts: float = 0.0

    @property
    def kind(self) -> str:
        """prefill, decode, mixed or verify."""
        if self.drafts:
            return "verify"
        return "decode" if not self.tokens else "mixed" if self.batch else "prefill"


class Residual(NamedTuple):
    """Relative errors of the fit over the cells of one kind; noise: of single iterations around their cell."""

    cells: int
    iterations: int
    median: float
    p95: float
    bias: float  # total predicted time over total measured time, less 1
    noise: float


def cells_of(iterations: Iterable[Iteration]) -> list[Cell]:
    """Groups iterations by batch size and, within a factor of about 1.4, by context and prefill."""
    groups: dict[tuple[int, ...], list[Iteration]] = {}
    for one in iterations:
        key = (one.batch, *[_octave(value) for value in (one.context, one.tokens, one.squared, one.drafts)])
        groups.setdefault(key, []).append(one)
    cells = []
    for group in groups.values():
        table = np.array([(*one[:5], one.drafts) for one in group], float)
        batch, context, tokens, squared, ms, drafts = table.mean(axis=0).tolist()
        spread = float(np.abs(table[:, 4] / ms - 1).mean())
        cells.append(Cell(round(batch), context, tokens, squared, ms, spread, len(group), drafts))
    return sorted(cells)


def fit_latency(cells: Sequence[Cell], name: str, provenance: str = "") -> LinearLatency:
    """One fit over prefills, decodes and mixed iterations. ValueError without any prefill or any decode.

    Those that verified guesses are left out; where few decodes did not, they count as decodes of as many more jobs.
    """
    plain = [cell for cell in cells if not cell.drafts]
    if sum([cell.seen for cell in plain if cell.kind == "decode"]) >= ENOUGH:
        cells = plain
    else:
        cells = [_as_jobs(cell) if cell.drafts else cell for cell in cells]
    if not any(cell.kind == "decode" for cell in cells) or not any(cell.tokens for cell in cells):
        raise ValueError("a latency model needs decode iterations and iterations with a prefill: measure for longer")
    times, weights = [cell.ms for cell in cells], [float(cell.seen) for cell in cells]
    best: list[float] = []
    least = float("inf")
    for with_prefill in (True, False):  # a mixed iteration pays the larger of the two constants: either may be it
        rows = [_row(cell, with_prefill) for cell in cells]
        found = fit(rows, times, weights)
        errors = np.array(rows) @ found / times - 1
        error = float(weights @ np.square(errors))
        if (found[1] >= found[0]) is with_prefill and error < least:
            best, least = found, error
    decode, prefill, batch, context, tokens, squared = best or found
    if not (decode or batch or context):
        decode = min(cell.ms for cell in cells if cell.kind == "decode")
    prefills = PrefillFit(prefill, tokens, squared)
    line = LinearLatency(prefills, [DecodePiece(1, decode, batch, context)], name, provenance)
    sizes = _sizes(cells, context)
    missed = [abs(decode + batch * size - ms) / ms for size, ms, _ in sizes]
    if len(sizes) < 3 or max(missed) <= LINEAR_TOLERANCE:
        return line
    return LinearLatency(prefills, _pieces(sizes, context), name, provenance)


def _as_jobs(cell: Cell) -> Cell:
    read = cell.context * (1 + UNMEASURED.context * cell.drafts / cell.batch)
    return cell._replace(batch=round(cell.batch + UNMEASURED.tokens * cell.drafts), context=read, drafts=0.0)


def residuals(cells: Sequence[Cell], latency: LatencyModel) -> dict[str, Residual]:
    """By kind, the measured kinds only. Quantiles are weighted by iterations."""
    found = {}
    for kind in ("prefill", "decode", "mixed", "verify"):
        mine = [cell for cell in cells if cell.kind == kind]
        if mine:
            ms = np.array([cell.ms for cell in mine])
            counts = np.array([cell.seen for cell in mine])
            predicted = np.array([predict_ms(latency, cell) for cell in mine])
            each = np.repeat(np.abs(predicted / ms - 1), counts)
            bias = float((predicted * counts).sum() / (ms * counts).sum() - 1)
            noise = float(np.average([cell.spread for cell in mine], weights=counts))
            median, p95 = np.percentile(each, (50, 95)).tolist()
            found[kind] = Residual(len(mine), int(counts.sum()), median, p95, bias, noise)
    return found


def predict_ms(latency: LatencyModel, shape: Iteration | Cell) -> float:
    """Predicted ms of an iteration of this shape; several chunks are treated as one of the same sums."""
    chunks = []
    if shape.tokens:
        tokens = round(shape.tokens)
        chunks = [(max(0, round((shape.squared / shape.tokens - shape.tokens) / 2)), tokens)]
    if shape.drafts:
        drafts = max(1, round(shape.drafts))
        return latency.verify_ps(shape.batch, round(shape.context), drafts, chunks) / 1e9
    return latency.iteration_ps(shape.batch, round(shape.context), chunks) / 1e9


def _row(cell: Cell, with_prefill: bool) -> tuple[float, ...]:
    """Regressors of the six coefficients. with_prefill: mixed iterations have the prefill's constant."""
    prefill = cell.kind == "prefill" or (cell.kind == "mixed" and with_prefill)
    return float(not prefill), float(prefill), float(cell.batch), cell.context, cell.tokens, cell.squared


def _octave(value: float) -> int:
    return round(2 * log2(value)) if value > 0 else -1


def _sizes(cells: Sequence[Cell], per_context: float) -> list[tuple[int, float, int]]:
    """(batch, ms without the context's part, iterations) of decodes, by batch; only sizes with enough iterations."""
    groups: dict[int, list[Cell]] = {}
    for cell in cells:
        if cell.kind == "decode":
            groups.setdefault(cell.batch, []).append(cell)
    found = []
    for batch, group in sorted(groups.items()):
        count = sum(cell.seen for cell in group)
        ms = sum(cell.seen * (cell.ms - per_context * cell.context) for cell in group) / count
        if count >= 10 and ms > 0:
            found.append((batch, ms, count))
    return found


def _pieces(sizes: Sequence[tuple[int, float, int]], per_context: float) -> list[DecodePiece]:
    """One piece a batch size up to the largest measured: monotone (pooled), interpolated between measured sizes."""
    blocks: list[list[float]] = []  # [ms, weight, sizes]: pool adjacent violators
    for _, ms, count in sizes:
        blocks.append([ms, float(count), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            last = blocks.pop()
            total = blocks[-1][1] + last[1]
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + last[0] * last[1]) / total, total, blocks[-1][2] + last[2]]
    level = [block[0] for block in blocks for _ in range(int(block[2]))]
    batches = [batch for batch, _, _ in sizes]
    found = [
        DecodePiece(batch, float(np.interp(batch, batches, level)), 0.0, per_context) for batch in range(1, batches[-1])
    ]
    slope = max(0.0, level[-1] - level[0]) / max(1, batches[-1] - batches[0])  # extrapolated with the overall slope
    constant = max(0.0, level[-1] - slope * batches[-1])
    return [*found, DecodePiece(batches[-1], constant, (level[-1] - constant) / batches[-1], per_context)]
