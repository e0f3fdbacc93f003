"""The Recorder: gaps, visits and columns, from what it is told of each commit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastserve.metrics.columns import COLUMNS
from fastserve.metrics.records import Recorder
from fastserve.sched.job import Job
from fastserve.sched.plan import Copy, Moves, Outcome, Plan
from tests.policies.desk import MS, Desk


class Told(Desk):
    """A desk whose commits a Recorder hears of."""

    def __init__(self, *args: Any, recorder: Recorder | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.recorder = Recorder() if recorder is None else recorder

    def run(self, ms: float, *ended: Job) -> list[Job]:
        plan = self.scheduler.plan(self.now)
        assert plan is not None
        ns = round(ms * MS)
        outcome = Outcome(1, ns, ended=ended, first=ns)
        self.now += ns
        self.recorder.committed(plan, outcome, self.scheduler.commit(plan, outcome, self.now), self.now)
        return []

    def row(self, id: int) -> dict[str, Any]:
        columns = self.recorder.columns()
        return {name: values.tolist()[id] for name, values in columns.items()}


def test_a_life_in_columns() -> None:
    desk = Told("fcfs", slots=1, recorder=Recorder(alone=lambda prompt, output: 4 * 10**9))
    first = desk.come(3, client="a")
    second = desk.come(2, program="p", priority=4)
    desk.run(2)
    desk.run(5)
    desk.run(1, first)
    desk.run(4, second)
    row = desk.row(0)
    assert (row["output_tokens"], row["finish"], row["client"]) == (3, "stop", "a")
    assert (row["ttft"], row["jct_from_arrival"], row["largest_gap"], row["service"]) == (0.002, 0.008, 0.005, 0.008)
    assert row["slowdown"] == 2 and row["tpot_excl_first"] == 0.003 and math.isnan(row["e2e_slo"])
    other = desk.row(1)
    assert (other["queued"], other["output_tokens"], other["program"], other["priority"]) == (0.008, 1, "p", 4)
    assert math.isnan(other["largest_gap"]) and math.isnan(other["tpot_excl_first"])


def test_objectives_are_those_of_the_time_of_the_end() -> None:
    """An engine forgets a request when it has ended, and columns are made later."""
    known = {0: (0.5, math.nan, 2.0)}
    desk = Told("fcfs", recorder=Recorder(slo=lambda id: known.pop(id)))
    desk.run(1, desk.come(1))
    assert not known
    row = desk.row(0)
    assert (row["ttft_slo"], row["e2e_slo"]) == (0.5, 2.0) and math.isnan(row["tpot_slo"])


def test_every_column_has_its_kind() -> None:
    desk = Told("fcfs")
    assert {name: values.dtype.kind for name, values in desk.recorder.columns().items()} == {
        name: kind[0] for name, kind in COLUMNS.items()
    }
    job = desk.come(1)
    desk.run(1, job)
    columns = desk.recorder.columns()
    assert {name: values.dtype.str[1:] for name, values in columns.items()} == {
        name: "O" if kind == "O" else kind for name, kind in COLUMNS.items()
    }


def test_the_rejected_and_the_unfinished() -> None:
    desk = Told("fcfs", slots=1)
    job, _ = desk.come(1), desk.come(1)
    desk.run(1)
    refused = Job(2, desk.now, 10**6)
    desk.recorder.rejected(refused, refused.arrival, "too long")
    desk.recorder.live = desk.scheduler.live
    desk.recorder.ended(desk.now + MS)
    running, waited, rejected = (desk.row(id) for id in range(3))
    assert running["finish"] == waited["finish"] == "unfinished" and math.isnan(running["end"])
    assert running["jct_from_arrival"] == 0.002 and waited["queued"] == 0.002 and math.isnan(waited["ttft"])
    assert rejected["finish"] == "rejected" and math.isnan(rejected["jct_from_arrival"])
    assert job.finish == ""


def test_columns_are_the_same_however_often_they_are_flushed() -> None:
    found = []
    for flush in (1, 3, 1000):
        desk = Told("fcfs", slots=2)
        desk.recorder.flush = flush
        jobs = [desk.come(1 + i) for i in range(8)]
        for i in (1, 0, 2, 4, 3, 5, 6, 7):
            while not jobs[i].running:
                desk.run(1)
            desk.run(1 + i, jobs[i])
        found.append(desk.recorder.columns())
    for other in found[1:]:
        for name, values in found[0].items():
            assert np.array_equal(values, other[name], equal_nan=values.dtype.kind == "f"), name
    assert found[0]["id"].tolist() == list(range(8))


def test_old_rows_go_and_watchers_see_each() -> None:
    seen: list[tuple[int, str]] = []
    recorder = Recorder(keep=2, watch=lambda job, row: seen.append((job.id, row["finish"])))
    desk = Told("fcfs", slots=1, recorder=recorder)
    for _ in range(9):
        job = desk.come(1)
        desk.run(1, job)
    kept = recorder.columns()["id"].tolist()
    assert kept[-2:] == [7, 8] and len(kept) < 6
    assert seen == [(id, "stop") for id in range(9)]


def test_any_word_may_end_a_job() -> None:
    recorder = Recorder()
    for id, word in enumerate(("timeout", "length", "timeout")):
        job = Job(id, 0, 1)
        job.finish = word
        recorder.cancelled(job, MS)
    assert recorder.columns()["finish"].tolist() == ["timeout", "length", "timeout"]


def test_copies_count_once_however_they_come() -> None:
    recorder = Recorder(block_bytes=10)
    desk = Told("fcfs", recorder=recorder)
    job = desk.come(1)
    desk.run(1)
    moves = Moves()
    copy = Copy(job, 3, False)
    moves.prefetch.append(copy)
    recorder.committed(Plan(desk.now, {}, moves=moves), Outcome(1, 0), (), desk.now)
    again = Moves()
    again.load.append(copy)
    again.park.append(Copy(job, 2, True))
    recorder.committed(Plan(desk.now, {}, moves=again), Outcome(1, 0), (), desk.now)
    desk.run(1, job)
    assert (desk.row(0)["swapped_in_bytes"], desk.row(0)["swapped_out_bytes"]) == (30, 20)


def test_targets_are_the_jobs_own() -> None:
    desk = Told("fcfs", recorder=Recorder(slo=lambda id: (id + 1.0, float("nan"), 9.0)))
    for _ in range(2):
        job = desk.come(1)
        desk.run(1, job)
    assert desk.recorder.columns()["ttft_slo"].tolist() == [1.0, 2.0]
    assert desk.row(1)["e2e_slo"] == pytest.approx(9.0) and math.isnan(desk.row(0)["tpot_slo"])
