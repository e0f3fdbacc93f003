"""Which jobs of a run, or of runs of the same requests, are worth a closer look, and why.

* slowest: the longest completion time under any policy;
* most-preempted: the most preemptions under any policy;
* differs: the largest ratio of its completion time under one policy to that under another. A ratio, since it is short
  jobs that an order helps or harms: seconds would name the longest jobs again.

Of completed jobs and unfinished ones, whose time is what they have waited so far; `differs` of those that all complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.columns import Columns
from fastserve.metrics.finish import is_outcome

SLOWEST, PREEMPTED, DIFFERS = WORDS = ("slowest", "most-preempted", "differs")
NONE = {
    SLOWEST: "no job was served",
    PREEMPTED: "no job was preempted",
    DIFFERS: "no job took longer under one policy than under another",
}
"""Why there is none."""
ENOUGH = 5  # jobs to name

Numbers = NDArray[Any]


class Reason(NamedTuple):
    """word: why. label: under which policy it is so; of one that differs, under which it took longest. other: of one
    that differs, under which it took the least, else empty.
    """

    word: str
    label: str
    other: str = ""


class Notable(NamedTuple):
    """A job. program, turn: whose request it is, and its place among them; else empty and 0."""

    id: int
    why: tuple[Reason, ...]
    program: str
    turn: int
    jct_s: dict[str, float]  # by label; without those under which it has no time
    preemptions: dict[str, int]

    def words(self) -> str:
        """The figures that make it so."""
        return "; ".join([self._figures(reason) for reason in self.why])

    def _figures(self, reason: Reason) -> str:
        if reason.word == PREEMPTED:
            times = self.preemptions[reason.label]
            return f"{'once' if times == 1 else f'{times:,} times'} under {reason.label}"
        here = f"{_seconds(self.jct_s[reason.label])} under {reason.label}"
        return f"{_seconds(self.jct_s[reason.other])} under {reason.other}, {here}" if reason.other else here

    def document(self) -> dict[str, Any]:
        """For JSON."""
        why = [reason.word for reason in self.why]
        return {"id": self.id, "why": why, "jct_s": dict(self.jct_s), "preemptions": dict(self.preemptions)}


def notable(runs: Mapping[str, Columns], most: int = ENOUGH) -> list[Notable]:
    """Up to `most` jobs, each once: the slowest, the most preempted, and those in which policies differ most; of one
    policy the slowest ones. None of a single job. runs: label -> records of the same requests.
    """
    if max([len(records["id"]) for records in runs.values()], default=0) < 2:
        return []
    found = {word: ranked(word, runs, most) for word in WORDS}
    jobs: dict[int, Notable] = {}
    for job in (*found[SLOWEST][:1], *found[PREEMPTED][:1]):
        jobs[job.id] = job._replace(why=jobs[job.id].why + job.why) if job.id in jobs else job
    for job in found[DIFFERS] or found[SLOWEST]:
        jobs.setdefault(job.id, job)
    return list(jobs.values())[:most]


def ranked(word: str, runs: Mapping[str, Columns], most: int = 1) -> list[Notable]:
    """The first so many by one of WORDS; of equals the earlier one. Empty where no job is so."""
    kept = {label: _timed(records) for label, records in runs.items()}
    if word == DIFFERS:
        return _differing(kept, most)
    column = "jct_from_arrival" if word == SLOWEST else "preemptions"
    best: dict[int, tuple[float, str]] = {}
    for label, records in kept.items():
        for row in _largest(records[column], most):
            value, id = float(records[column][row]), int(records["id"][row])
            if value > 0 and (id not in best or value > best[id][0]):
                best[id] = value, label
    order = sorted(best, key=lambda id: (-best[id][0], id))[:most]
    return [_about(id, Reason(word, best[id][1]), kept) for id in order]


def _differing(runs: Mapping[str, Columns], most: int) -> list[Notable]:
    """Over the jobs that are the same requests under all policies."""
    if len(runs) < 2:
        return []
    done = {label: _rows(records, is_outcome(records["finish"], "completed")) for label, records in runs.items()}
    ids: Numbers | None = None
    for records in done.values():
        ids = records["id"] if ids is None else np.intersect1d(ids, records["id"])
    assert ids is not None
    ids = np.sort(ids)
    times = []
    for records in done.values():
        order = np.argsort(records["id"])
        times.append(records["jct_from_arrival"][order][np.searchsorted(records["id"][order], ids)])
    table = np.array(times)
    table = np.where(table > 0, table, np.nan)
    ratio = np.where(np.isnan(table).any(axis=0), 0.0, table.max(axis=0) / table.min(axis=0))
    labels = list(done)
    return [
        _about(int(ids[at]), Reason(DIFFERS, labels[table[:, at].argmax()], labels[table[:, at].argmin()]), runs)
        for at in _largest(ratio, most)
        if ratio[at] > 1
    ]


def _largest(values: Numbers, most: int) -> Numbers:
    """Places of the largest, in falling order; of equals the earlier one."""
    if len(values) > most:
        least = np.partition(values, len(values) - most)[len(values) - most]
        places = np.flatnonzero(values >= least)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")][:most]


def _timed(records: Columns) -> Columns:
    finish = records["finish"]
    counted = is_outcome(finish, "completed") | is_outcome(finish, "unfinished")
    return _rows(records, counted & (records["jct_from_arrival"] >= 0))  # not NaN


def _rows(records: Columns, chosen: Numbers) -> Columns:
    names = ("id", "finish", "jct_from_arrival", "preemptions", "program", "turn")
    return {name: records[name][chosen] for name in names if name in records}


def _about(id: int, why: Reason, runs: Mapping[str, Columns]) -> Notable:
    times: dict[str, float] = {}
    preemptions: dict[str, int] = {}
    program, turn = "", 0
    for name, records in runs.items():
        for row in np.flatnonzero(records["id"] == id):
            times[name] = float(records["jct_from_arrival"][row])
            preemptions[name] = int(records["preemptions"][row])
            if "turn" in records and records["turn"][row]:
                program, turn = str(records["program"][row]), int(records["turn"][row])
    return Notable(id, (why,), program, turn, times, preemptions)


def _seconds(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
