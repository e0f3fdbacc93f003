"""Errors of simulations against live runs, for experiments.fidelity and its notebook."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np

from experiments._lib.case import Point, points
from experiments._lib.claim import ends
from experiments._lib.figure import look_of
from experiments._lib.sweep import Outcome
from fastserve.metrics.summary import Ratio, paired_ratio

COMPARED = {
    "sim": ("o", "predicted", "simulated"),
    "tempo": ("+", "at the machine's measured speed", "simulated at the machine's measured speed"),
    "hindsight": ("|", "with its own times", "simulated with the run's own times"),
    "again": ("x", "live again", "live again"),
}
"""Each comparison with a live run: (marker, legend, text in a claim)."""
ERRORS = ("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s", "preemptions_per_job", "mean_stalled_s",
          "swapped_out_gib", "output_tokens_per_s")  # fmt: skip


def error(cell: Point, measure: str, of: str = "sim") -> float | None:
    """Median over the paired runs of simulated over live, less 1; None where a live value is 0 or missing."""
    live = [row.numbers.get(f"live_{measure}") for row in cell.rows]
    other = [row.numbers.get(f"{of}_{measure}") for row in cell.rows]
    ratios = [b / a for a, b in zip(live, other, strict=True) if a and b is not None]
    return float(np.median(ratios)) - 1 if ratios else None


def each(cell: Point, of: str = "sim") -> list[float]:
    """The error of the mean completion time, pair by pair."""
    pairs = [(row.numbers.get(f"{of}_mean_jct_s"), row.numbers["live_mean_jct_s"]) for row in cell.rows]
    return [value / live - 1 for value, live in pairs if value is not None]


def worst(cells: list[Point], of: str = "sim", measure: str = "mean_jct_s") -> float | None:
    """The largest error of the measure over the cells, as a fraction, without its sign."""
    found = [abs(value) for cell in cells if (value := error(cell, measure, of)) is not None]
    return max(found, default=None)


def ranked(cells: list[Point]) -> list[tuple[Point, Point]]:
    """Pairs of policies, all else equal, with disjoint live intervals: those that the live runs rank."""
    found = []
    for one, other in combinations(cells, 2):
        if _where(one) == _where(other):
            mine, theirs = interval(one), interval(other)
            if mine[1] < theirs[0] or theirs[1] < mine[0]:
                found.append((one, other))
    return found


def misranked(cells: list[Point], of: str = "sim") -> list[str]:
    """Those pairs that the simulation ranks differently."""
    found = []
    for one, other in ranked(cells):
        live = one.mean("live_mean_jct_s") < other.mean("live_mean_jct_s")
        simulated = one.mean(f"{of}_mean_jct_s") < other.mean(f"{of}_mean_jct_s")
        if live is not simulated:
            found.append(f"{one.at['policy']} and {other.at['policy']} at {said(_where(one))}")
    return found


_WORDS = {"load": "load {}", "slots": "{} slots"}


def said(at: dict[str, Any]) -> str:
    """Coordinates in words."""
    return ", ".join(_WORDS.get(name, "{}").format(value) for name, value in at.items())


def _where(cell: Point) -> dict[str, Any]:
    """Its coordinates but the policy."""
    return {name: value for name, value in cell.at.items() if name != "policy"}


def same_order(cells: list[Point], of: str = "sim") -> str:
    """Pairs of policies on one trace, all else equal, whose live and simulated means are in one order: "11 of 12"."""
    alike = total = 0
    for one, other in combinations(cells, 2):
        if _where(one) == _where(other):
            for mine, theirs in zip(one.rows, other.rows, strict=True):
                live, told = (mine.numbers[f"{body}_mean_jct_s"] < theirs.numbers[f"{body}_mean_jct_s"]
                              for body in ("live", of))  # fmt: skip
                alike += live is told
                total += 1
    return f"{alike} of {total}"


def interval(cell: Point) -> tuple[float, float]:
    """Interval of the mean completion time over the live runs, s; of few runs the smallest and the largest."""
    values = cell.values("live_mean_jct_s")
    found = paired_ratio(values, [1.0] * len(values))
    return ends(found) if found.low is not None else (min(values), max(values))


def spread(cell: Point, of: str) -> Ratio | None:
    """Median of the ratios of the mean completion time over live, with the smallest and the largest."""
    ratios = [1 + value for value in each(cell, of)]
    return Ratio(float(np.median(ratios)), min(ratios), max(ratios)) if ratios else None


def document(outcome: Outcome) -> dict[str, Any]:
    """The --json document."""
    cells = points(outcome.rows)
    about = json.loads((outcome.folder / "run.json").read_text(encoding="utf-8"))
    wrong = misranked(cells)
    single = {of: [abs(value) for cell in cells for value in each(cell, of)] for of in COMPARED}
    return {
        "experiment": outcome.experiment,
        "scale": outcome.scale,
        "worst_mean_jct_error": worst(cells),
        "ranking_equal": not wrong,
        "misranked": wrong,
        "pairs_that_live_runs_rank": len(ranked(cells)),
        "misranked_at_the_machines_tempo": misranked(cells, "tempo"),
        "worst_mean_jct_error_at_the_machines_tempo": worst(cells, "tempo"),
        "worst_p95_jct_error_at_the_machines_tempo": worst(cells, "tempo", "p95_jct_s"),
        "worst_p99_jct_error_at_the_machines_tempo": worst(cells, "tempo", "p99_jct_s"),
        "worst_mean_jct_error_with_the_runs_own_times": worst(cells, "hindsight"),
        "noise_floor_mean_jct": worst(cells, "again"),
        "worst_single_run": {of: max(values, default=None) for of, values in single.items()},
        "median_single_run": {of: float(np.median(values)) if values else None for of, values in single.items()},
        "largest_load_average": max(max(cell.values("load_average")) for cell in cells),
        "scheduler_share": max(max(cell.values("scheduler_share")) for cell in cells),
        "cells": [_cell(cell) for cell in cells],
        "provenance": about["provenance"],
        "settings": about["settings"],
    }


def table(outcomes: list[Outcome]) -> str:
    """A Markdown row for each run: what ran live, and the errors of its cells, all of the mean completion time."""
    rows = [
        "backend | live runs | predicted: median cell, worst | at the machine's tempo: median, worst | "
        "with its own times: worst | live again: worst | policies in the live order: predicted, at its tempo",
        "--- | ---: | ---: | ---: | ---: | ---: | ---:",
    ]
    for outcome in outcomes:
        cells = points(outcome.rows)
        each = [outcome.experiment.removeprefix("fidelity").strip("_") or "torch", str(len(outcome.rows))]
        for of in ("sim", "tempo"):
            found = [abs(value) for cell in cells if (value := error(cell, "mean_jct_s", of)) is not None]
            each.append(f"{np.median(found):.1%}, {max(found):.1%}" if found else "-")
        each += [_percent(worst(cells, of)) for of in ("hindsight", "again")]
        each.append(", ".join(same_order(cells, of) for of in ("sim", "tempo")))
        rows.append(" | ".join(each))
    return "\n".join(rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _cell(cell: Point) -> dict[str, Any]:
    ends = {of: {measure: error(cell, measure, of) for measure in ERRORS} for of in COMPARED}
    low, high = interval(cell)
    tempi = np.concatenate([row.numbers["tempo"] for row in cell.rows])
    return {
        **cell.at,
        "pairs": len(cell.rows),
        "rate": cell.mean("rate"),
        "live_mean_jct_s": cell.mean("live_mean_jct_s"),
        "live_interval": [low, high],
        "sim_mean_jct_s": cell.mean("sim_mean_jct_s"),
        "errors": ends["sim"],
        "errors_at_the_machines_tempo": ends["tempo"],
        "errors_with_the_runs_own_times": ends["hindsight"],
        "live_again": ends["again"] if cell.values("again_mean_jct_s") else None,
        "each_pair": {of: each(cell, of) for of in COMPARED},
        "load_by_each_profile": cell.values("load_now"),
        "tempo": {"lowest": float(tempi.min()), "mean": float(tempi.mean()), "highest": float(tempi.max())},
        "drift": [row.numbers["drift"] for row in cell.rows],
    }


def draw_jobs(axes: Any, cells: list[Point], of: str) -> None:
    """A dot for each job: its live completion time and that of simulation `of`."""
    for policy in dict.fromkeys(str(cell.at["policy"]) for cell in cells):
        mine = [row for cell in cells if cell.at["policy"] == policy for row in cell.rows]
        live, simulated = (np.concatenate([row.numbers[f"{body}_jct"] for row in mine]) for body in ("live", of))
        style = look_of(policy)
        axes.plot(live, simulated, linestyle="none", marker=style.marker, markersize=2, alpha=0.4, color=style.colour,
                  label=policy, rasterized=True)  # fmt: skip
    axes.axline((1, 1), (2, 2), color="#777777", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("live job completion time (s)")
    axes.set_title(COMPARED[of][1])
