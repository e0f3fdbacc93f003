"""Which jobs are worth a look, on records made by hand."""

from __future__ import annotations

import numpy as np

from fastserve.metrics.columns import Columns
from fastserve.metrics.notable import DIFFERS, PREEMPTED, SLOWEST, Reason, notable, ranked


def records(jct: list[float], preemptions: list[int] | None = None, finish: list[str] | None = None) -> Columns:
    n = len(jct)
    return {
        "id": np.arange(n),
        "jct_from_arrival": np.array(jct),
        "preemptions": np.array(preemptions or [0] * n),
        "finish": np.array(finish or ["stop"] * n, "O"),
    }


NAN = float("nan")
FCFS = records([10, 9, 8, 50, 4, 5])
MINE = records([11, 1, 8, 40, 2, NAN], [0, 0, 0, 7, 1, 0], ["stop"] * 5 + ["truncated"])
RUNS = {"fcfs": FCFS, "mine": MINE}


def test_each_word_has_its_job() -> None:
    (slowest,) = ranked(SLOWEST, RUNS)
    assert (slowest.id, slowest.why, slowest.jct_s) == (3, (Reason(SLOWEST, "fcfs"),), {"fcfs": 50, "mine": 40})
    (preempted,) = ranked(PREEMPTED, RUNS)
    assert (preempted.id, preempted.words()) == (3, "7 times under mine")
    (differs,) = ranked(DIFFERS, RUNS)
    assert (differs.id, differs.words()) == (1, "1 s under mine, 9 s under fcfs")
    assert [job.id for job in ranked(DIFFERS, RUNS, 9)] == [1, 4, 3, 0], "2 does not differ, 5 is not complete"
    assert [job.id for job in ranked(SLOWEST, RUNS, 3)] == [3, 0, 1]


def test_five_are_named_once_each() -> None:
    found = notable(RUNS)
    assert [job.id for job in found] == [3, 1, 4, 0]
    assert [[reason.word for reason in job.why] for job in found] == [[SLOWEST, PREEMPTED], *[[DIFFERS]] * 3]
    told = found[0].document()
    assert (told["id"], told["why"]) == (3, [SLOWEST, PREEMPTED])
    assert told["jct_s"] == {"fcfs": 50.0, "mine": 40.0} and told["preemptions"] == {"fcfs": 0, "mine": 7}
    many = {"a": records(list(range(1, 41))), "b": records([2.0 * i + 1 for i in range(1, 41)])}
    assert len(notable(many)) == 5


def test_of_one_policy_the_slowest() -> None:
    assert [job.id for job in notable({"fcfs": FCFS})] == [3, 0, 1, 2, 5]
    assert ranked(DIFFERS, {"fcfs": FCFS}) == []
    assert ranked(PREEMPTED, {"fcfs": FCFS}) == []


def test_nothing_is_said_of_a_single_job_or_none() -> None:
    assert notable({"a": records([1.0]), "b": records([2.0])}) == []
    assert notable({"a": records([]), "b": records([])}) == []
    assert notable({}) == []
    assert notable({"a": records([NAN, NAN], finish=["rejected", "cancelled"])}) == []


def test_who_is_not_done_counts_with_the_time_so_far_but_does_not_differ() -> None:
    runs = {"a": records([1, 2], finish=["stop", "unfinished"]), "b": records([1, 9])}
    assert ranked(SLOWEST, {"a": runs["a"]})[0].id == 1
    assert ranked(DIFFERS, runs) == []


def test_rows_need_not_be_in_order_of_their_numbers() -> None:
    turned = {name: column[::-1] for name, column in MINE.items()}
    assert ranked(DIFFERS, {"fcfs": FCFS, "mine": turned}, 9) == ranked(DIFFERS, RUNS, 9)
