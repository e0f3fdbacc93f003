"""Agents in closed loop: their traces and machines, the policies, and what is measured of a run beyond its summary."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from experiments._lib.best_cache import belady
from experiments._lib.case import TIMES, At, Case, Numbers, Workload, recorded, replayed
from experiments._lib.public import folder
from experiments._lib.sweep import ROOT
from fastserve.metrics.programs import completed_times
from fastserve.metrics.summary import Columns
from fastserve.policies.spec import PolicySpec
from fastserve.workload.content import content
from sim.settings import Settings

POLICIES = {
    "fcfs": PolicySpec("fcfs"),
    "sj-mlfq": PolicySpec("sj-mlfq"),
    "program-fcfs": PolicySpec("program-fcfs"),
    "plas": PolicySpec("plas"),
    "atlas": PolicySpec("atlas"),
    "deepest-first": PolicySpec("deepest-first"),
    "lpm": PolicySpec("lpm"),
    "cachewise": PolicySpec("cachewise"),
    "continuum": PolicySpec("continuum"),
    "continuum (paper)": PolicySpec("continuum", {"rule": "paper"}),
    "concur": PolicySpec("concur"),
    "thunder": PolicySpec("thunder"),
    "thunder (decay)": PolicySpec("thunder", {"decay": True}),
    "working-set": PolicySpec("working-set"),
}
TRACES = {
    "agents-like": (ROOT / "traces" / "agents-like.jsonl", "opt-13b-a100"),
    "recorded": (Path("agents"), "roofline:llama-3-8b/a100-80g"),
}
"""name -> file (the recorded ones below the folder of public traces), and a machine whose pool a dozen outgrow"""
SAMPLES = 100
"""of the working set, over the run"""


def path_of(name: str) -> Path:
    return folder() / TRACES[name][0]


def absent(at: At) -> bool:
    """Whether a row's trace is not here, so that its numbers cannot be made again."""
    return not path_of(str(at["trace"])).exists()


@lru_cache(maxsize=8)
def agents_of(path: Path, copies: int = 1) -> Workload:
    """All programs of a trace, so many times."""
    return recorded(path, 1 << 40, copies)


@lru_cache(maxsize=8)
def mean_context(workload: Workload) -> float:
    """Tokens of the longest context that a program comes to, in the mean over programs."""
    trace = workload.programs(0)
    longest: dict[str, int] = {}
    for program, tokens in zip(trace.program or [], (trace.prompt + trace.output).tolist(), strict=True):
        longest[program] = max(longest.get(program, 0), tokens)
    return float(np.mean(list(longest.values())))


def fitting(workload: Workload, settings: Settings) -> float:
    """How many contexts fit into the pool; infinite where it has no bound."""
    pool = settings.hardware().memory.device_tokens
    return float("inf") if pool is None else pool / mean_context(workload)


def measured(case: Case, over_time: bool = True) -> Numbers:
    """The summary, the times of programs by name, the longest hold, Belady's hit rate on this schedule, and the working
    set over time.
    """
    done = replayed(case)
    numbers: Numbers = dict(done.summary)
    numbers |= {"rate": None, "load": None, "samples": case.workload.samples}
    if done.programs is not None:
        numbers[TIMES] = completed_times(done.programs)
    numbers["held_max_s"] = float(np.nanmax(done.records["held_s"], initial=0.0))
    pool = case.settings.hardware().memory.device_tokens
    shared = None
    if numbers.get("hit_rate") is not None:
        trace = case.workload.programs(case.seed)
        shared = content(trace, int(done.settings.get("prefix_tokens") or trace.block_size))
    numbers["hit_rate_belady"] = None if shared is None or pool is None else belady(done.records, shared, pool)
    if over_time:
        numbers["pool_tokens"] = pool
        numbers["working_set"], numbers["working_set_step_s"] = working_set(done.records)
    return numbers


def working_set(records: Columns) -> tuple[list[int], float]:
    """Tokens of the contexts of programs that have begun and not ended, at SAMPLES moments; the step in s.

    A program's context is its last request's that has arrived, prompt and output, until the program's last end.
    """
    arrival, end = records["arrival"], records["end"]
    last = float(np.nanmax(np.where(np.isnan(end), arrival, end)))
    step = last / SAMPLES
    total = np.zeros(SAMPLES, np.int64)
    moments = np.arange(SAMPLES) * step
    for program in dict.fromkeys(records["program"].tolist()):
        rows = np.flatnonzero(records["program"] == program)
        rows = rows[np.argsort(arrival[rows], kind="stable")]
        until = last if np.isnan(end[rows]).any() else float(end[rows].max())
        at = np.searchsorted(arrival[rows], moments, side="right") - 1
        there = (at >= 0) & (moments < until)
        tokens = records["prompt_tokens"][rows] + records["output_tokens"][rows]
        total[there] += tokens[at[there]]
    return total.tolist(), step
