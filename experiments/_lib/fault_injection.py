"""Fault injection (negative controls): would a wrong simulation at the measured speed agree with the live run as well?

Every live run of `fidelity` is stored with its speed trace and its profile. Each is simulated again with one setting
wrong at the same speed, and with the right settings at a wrong speed; a valid comparison must show an error then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments._lib.case import Case, Row, points
from experiments._lib.errors import error
from experiments._lib.live import Rig, resimulated
from experiments._lib.speed_trace import SpeedTrace
from experiments._lib.sweep import Outcome, load
from fastserve.policies.spec import PolicySpec

MEASURES = ("mean_jct_s", "p95_jct_s", "preemptions_per_job")


@dataclass(frozen=True, slots=True)
class Fault:
    """change: (case, rig, speed trace) -> what is simulated instead; None where that changes nothing."""

    name: str
    change: Callable[[Case, Rig, SpeedTrace], tuple[PolicySpec, Rig, SpeedTrace] | None]


def _other_policy(case: Case, rig: Rig, tempo: SpeedTrace) -> tuple[PolicySpec, Rig, SpeedTrace]:
    return PolicySpec("sj-mlfq" if case.policy.policy == "fcfs" else "fcfs"), rig, tempo


def _other_queues(case: Case, rig: Rig, tempo: SpeedTrace) -> tuple[PolicySpec, Rig, SpeedTrace] | None:
    return (PolicySpec("sj-mlfq", {"preset": "artifact"}), rig, tempo) if case.policy.policy == "sj-mlfq" else None


def _fewer_slots(case: Case, rig: Rig, tempo: SpeedTrace) -> tuple[PolicySpec, Rig, SpeedTrace]:
    return case.policy, replace(rig, max_batch=rig.max_batch - 1), tempo


def _shuffled(case: Case, rig: Rig, tempo: SpeedTrace) -> tuple[PolicySpec, Rig, SpeedTrace]:
    order = np.random.default_rng(case.seed).permutation(len(tempo.each))
    return case.policy, rig, SpeedTrace(tuple(tempo.each[i] for i in order))


def _steady(case: Case, rig: Rig, tempo: SpeedTrace) -> tuple[PolicySpec, Rig, SpeedTrace]:
    return case.policy, rig, SpeedTrace((float(np.mean(tempo.each)),))


FAULTS = (
    Fault("nothing wrong", lambda case, rig, tempo: (case.policy, rig, tempo)),
    Fault("another policy (fcfs; for fcfs sj-mlfq)", _other_policy),
    Fault("other queues (sj-mlfq: the artifact's)", _other_queues),
    Fault("a slot less", _fewer_slots),
    Fault("the tempo's seconds in another order", _shuffled),
    Fault("the tempo's mean, always", _steady),
    Fault("no tempo: the prediction", lambda case, rig, tempo: (case.policy, rig, SpeedTrace((1.0,)))),
)


def inject_faults(outcome: Outcome) -> list[dict[str, Any]]:
    """One row for each fault: {"what", "cells", median and largest absolute error over the cells}.

    An error of a cell is the median over its pairs of simulated over live, less 1. FileNotFoundError for a profile
    that is not stored here.
    """
    module = load(outcome.experiment)
    cases = {_key(case.at, case.seed): case for case in module.cases(module.SCALES[outcome.scale])}
    found = []
    for fault in FAULTS:
        resimulations = []
        for row in outcome.rows:
            case = cases[_key(row.at, row.seed)]
            changed = fault.change(case, Rig(**case.options), SpeedTrace(tuple(row.numbers["tempo"])))
            if changed is not None:
                resimulations.append(Row(row.at, row.seed, row.numbers | resimulated(case, row.numbers, *changed)))
        cells = points(resimulations)
        entry: dict[str, Any] = {"what": fault.name, "cells": len(cells)}
        for measure in MEASURES:
            errors = [abs(value) for cell in cells if (value := error(cell, measure, "retold")) is not None]
            entry[measure] = {"median": float(np.median(errors)), "worst": max(errors)} if errors else None
        found.append(entry)
    return found


def shown(rows: list[dict[str, Any]]) -> str:
    """The table as text."""
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
