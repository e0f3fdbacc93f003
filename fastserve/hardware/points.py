"""Measured iteration times from a CSV file, and the linear fit through them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from fastserve.hardware.least_squares import fit
from fastserve.hardware.linear import DecodePiece, LinearLatency, PrefillFit

COLUMNS = ("phase", "batch", "tokens", "ms")
MOST = 10**9
FORM = 'a line such as "decode,16,512,23.5": 16 jobs with 512 tokens of context each took 23.5 ms'


class Point(NamedTuple):
    """One iteration: `batch` whole prompts of `tokens` tokens each, or as many decoding jobs with that context each."""

    phase: str  # prefill or decode
    batch: int
    tokens: int
    ms: float


class Miss(NamedTuple):
    """Relative errors of the fit at the points of one phase."""

    points: int
    median: float
    worst: float


def read_points(path: str | PathLike[str]) -> list[Point]:
    """Columns phase, batch, tokens, ms in any order, others are passed over. ValueError names the line."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)}; a header {','.join(COLUMNS)}, then {FORM}")
        return [_point(row, f"{path}, line {rows.line_num}") for row in rows]


def _point(row: dict[str, str], where: str) -> Point:
    phase = (row["phase"] or "").strip()
    try:
        batch, tokens, ms = int(row["batch"]), int(row["tokens"]), float(row["ms"])
    except (TypeError, ValueError):
        raise ValueError(f"{where}: batch and tokens are whole numbers, ms is a number; {FORM}") from None
    if phase not in ("prefill", "decode"):
        raise ValueError(f"{where}: phase is prefill or decode, got {phase!r}; {FORM}")
    if not 1 <= batch <= MOST or not 1 <= tokens <= MOST or not 0 < ms < 1e12:
        raise ValueError(f"{where}: batch and tokens are from 1 to {MOST:g}, and ms is above 0; {FORM}")
    return Point(phase, batch, tokens, ms)


def fit_points(points: Sequence[Point], name: str, provenance: str = "") -> tuple[LinearLatency, dict[str, Miss]]:
    """Least relative squares, no coefficient below 0, and how far the fit misses its own points, by phase.

    ValueError where there are too few points of a phase to tell its coefficients apart.
    """
    prefills = [point for point in points if point.phase == "prefill"]
    decodes = [point for point in points if point.phase == "decode"]
    for phase, found, least in (("prefill", prefills, 2), ("decode", decodes, 2)):
        if len({(point.batch, point.tokens) for point in found}) < least:
            raise ValueError(
                f"{name}: {len(found)} {phase} points are too few; give at least {least} of different sizes, better "
                "ten, and decodes of several batch sizes and contexts"
            )
    times = [point.ms for point in prefills]
    prefill = PrefillFit(*fit([(1, p.batch * p.tokens, p.batch * p.tokens**2) for p in prefills], times))
    decode = fit([(1, p.batch, p.batch * p.tokens) for p in decodes], [point.ms for point in decodes])
    latency = LinearLatency(prefill, [DecodePiece(1, *decode)], name, provenance)
    return latency, {"prefill": _miss(latency, prefills), "decode": _miss(latency, decodes)}


def point_ms(latency: LinearLatency, point: Point) -> float:
    if point.phase == "prefill":
        return latency.iteration_ps(0, 0, [(0, point.tokens)] * point.batch) / 1e9
    return latency.iteration_ps(point.batch, point.batch * point.tokens, ()) / 1e9


def _miss(latency: LinearLatency, points: Sequence[Point]) -> Miss:
    errors = sorted(abs(point_ms(latency, point) / point.ms - 1) for point in points)
    return Miss(len(errors), errors[len(errors) // 2], errors[-1])
