"""Doubts: does the simulation at the machine's tempo agree because it is right, or would anything agree at that tempo?

Every live run of `fidelity` is kept with its tempo and its profile. So each is simulated again, at the same tempo with
one thing wrong, and with the right settings at a wrong tempo; a control that is worth something must miss then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments._lib.case import Case, Row, points
from experiments._lib.errors import error
from experiments._lib.live import Rig, retold
from experiments._lib.speed_trace import Tempo
from experiments._lib.sweep import Outcome, load
from fastserve.policies.spec import PolicySpec

MEASURES = ("mean_jct_s", "p95_jct_s", "preemptions_per_job")


@dataclass(frozen=True, slots=True)
class Doubt:
    """change: a case, its rig and the tempo of its run, and what is simulated instead; None where that is no change."""

    name: str
    change: Callable[[Case, Rig, Tempo], tuple[PolicySpec, Rig, Tempo] | None]


def _other_policy(case: Case, rig: Rig, tempo: Tempo) -> tuple[PolicySpec, Rig, Tempo]:
    return PolicySpec("sj-mlfq" if case.policy.policy == "fcfs" else "fcfs"), rig, tempo


def _other_queues(case: Case, rig: Rig, tempo: Tempo) -> tuple[PolicySpec, Rig, Tempo] | None:
    return (PolicySpec("sj-mlfq", {"preset": "artifact"}), rig, tempo) if case.policy.policy == "sj-mlfq" else None


def _fewer_slots(case: Case, rig: Rig, tempo: Tempo) -> tuple[PolicySpec, Rig, Tempo]:
    return case.policy, replace(rig, max_batch=rig.max_batch - 1), tempo


def _shuffled(case: Case, rig: Rig, tempo: Tempo) -> tuple[PolicySpec, Rig, Tempo]:
    order = np.random.default_rng(case.seed).permutation(len(tempo.each))
    return case.policy, rig, Tempo(tuple(tempo.each[i] for i in order))


def _steady(case: Case, rig: Rig, tempo: Tempo) -> tuple[PolicySpec, Rig, Tempo]:
    return case.policy, rig, Tempo((float(np.mean(tempo.each)),))


DOUBTS = (
    Doubt("nothing wrong", lambda case, rig, tempo: (case.policy, rig, tempo)),
    Doubt("another policy (fcfs; for fcfs sj-mlfq)", _other_policy),
    Doubt("other queues (sj-mlfq: the artifact's)", _other_queues),
    Doubt("a slot less", _fewer_slots),
    Doubt("the tempo's seconds in another order", _shuffled),
    Doubt("the tempo's mean, always", _steady),
    Doubt("no tempo: the prediction", lambda case, rig, tempo: (case.policy, rig, Tempo((1.0,)))),
)


def doubted(outcome: Outcome) -> list[dict[str, Any]]:
    """One row for each doubt: {"what", "cells", and of the cells' errors without signs the median and the worst}.

    An error of a cell is the median over its pairs of simulated over live, less 1. FileNotFoundError for a profile that
    is not kept here.
    """
    module = load(outcome.experiment)
    cases = {_key(case.at, case.seed): case for case in module.cases(module.SCALES[outcome.scale])}
    found = []
    for doubt in DOUBTS:
        told = []
        for row in outcome.rows:
            case = cases[_key(row.at, row.seed)]
            changed = doubt.change(case, Rig(**case.options), Tempo(tuple(row.numbers["tempo"])))
            if changed is not None:
                told.append(Row(row.at, row.seed, row.numbers | retold(case, row.numbers, *changed)))
        cells = points(told)
        entry: dict[str, Any] = {"what": doubt.name, "cells": len(cells)}
        for measure in MEASURES:
            errors = [abs(value) for cell in cells if (value := error(cell, measure, "retold")) is not None]
            entry[measure] = {"median": float(np.median(errors)), "worst": max(errors)} if errors else None
        found.append(entry)
    return found


def shown(rows: list[dict[str, Any]]) -> str:
    """The table, for people."""
    lines = [f"{'simulated with':<42} {'cells':>5}  mean JCT: median, worst   p95 JCT: median, worst   preemptions"]
    for row in rows:
        cells = [f"{row['what']:<42} {row['cells']:>5}"]
        for measure in MEASURES:
            one = row[measure]
            cells.append(f"{one['median']:>12.1%}{one['worst']:>10.1%}   " if one else f"{'':>25}")
        lines.append("".join(cells).rstrip())
    return "\n".join(lines)


def _key(at: dict[str, Any], seed: int) -> tuple[Any, ...]:
    return (*sorted(at.items()), seed)
