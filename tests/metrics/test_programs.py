"""Measures of programs, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastserve.metrics.columns import COLUMNS, Columns
from fastserve.metrics.programs import (
    PROGRAM_COLUMNS,
    SUMMARY,
    programs_saturated,
    summarise_programs,
    table_of,
    time_ratio,
    window_at_work,
)

NAN = float("nan")


def records(*rows: tuple[int, float, float, str]) -> Columns:
    """id, arrival, end, finish; the first token comes half way."""
    known: list[dict[str, Any]] = []
    for id, arrival, end, finish in rows:
        began = finish in ("stop", "length", "truncated")
        first = (arrival + end) / 2 if began else NAN
        known.append({
            "id": id, "arrival": arrival, "end": NAN if finish == "unfinished" else end, "finish": finish,
            "first_token": first, "ttft": first - arrival, "held_s": 0.5, "prompt_tokens": 100, "output_tokens": 10,
            "cached_tokens": 40, "jct_from_arrival": NAN if finish in ("rejected", "truncated") else end - arrival,
        })  # fmt: skip
    return {name: np.array([row.get(name, 0) for row in known], kind) for name, kind in COLUMNS.items()}


def test_a_program_is_measured_from_its_requests() -> None:
    found = records((0, 0, 4, "stop"), (1, 2, 3, "stop"), (2, 6, 8, "length"), (3, 1, 9, "stop"))
    table = table_of(
        found, ["a", "b"], [[0, 1, 2], [3]], horizon_s=9, alone=[4.0, 0.0], alone_turn=[1.0, 1.0, 1.0, 2.0]
    )
    assert {name: values.dtype.kind for name, values in table.items()} == {n: k[0] for n, k in PROGRAM_COLUMNS.items()}
    a = {name: values[0] for name, values in table.items()}
    assert (a["program"], a["finish"], a["turns"], a["completed"], a["abandoned"]) == ("a", "completed", 3, 3, 0)
    assert (a["first_arrival"], a["end"], a["time"], a["alone"], a["slowdown"]) == (0, 8, 8, 4, 2)
    assert a["service"] == 6, "from 0 to 4 and from 6 to 8; what ran at once counts once"
    assert a["stall_per_turn"] == pytest.approx((3 + 0 + 1) / 3)
    assert (a["first_turn_ttft"], a["longest_ttft"]) == (2, 2)
    assert (a["held_s"], a["prompt_tokens"], a["output_tokens"], a["cached_tokens"]) == (1.5, 300, 30, 120)
    assert np.isnan(table["slowdown"][1]), "nobody knows how long it takes alone"


@pytest.mark.parametrize("finish", ["truncated", "rejected", "gave_up", "cancelled"])
def test_a_request_that_was_not_completed_ends_its_program(finish: str) -> None:
    found = records((0, 0, 1, "stop"), (1, 2, 3, finish), (4, 0, 5, "stop"))
    table = table_of(found, ["a", "b", "c"], [[0, 1, 2], [3], [4]], horizon_s=9, abandoned=[2])
    assert table["program"].tolist() == ["a", "c"], "b has not begun"
    assert table["finish"].tolist() == ["abandoned", "completed"]
    assert table["abandoned"].tolist() == [1, 0]
    assert np.isnan(table["time"][0]) and table["end"][0] == (2 if finish == "rejected" else 3)
    summary = summarise_programs(table, found, [[0, 1, 2], [3], [4]], horizon_s=9)
    assert tuple(summary) == SUMMARY
    assert summary["program_time_mean_s"] == 5
    assert summary["programs_per_hour"] == pytest.approx(1 / 5 * 3600), "what the abandoned one did has come to nothing"
    counts = ("programs", "programs_completed", "programs_abandoned", "programs_unfinished", "abandoned_requests")
    assert [summary[key] for key in counts] == [2, 1, 1, 0, 1]
    assert summary["gave_up"] == (finish == "gave_up")


def test_a_request_that_broke_off_ends_its_program_if_others_wait_for_it() -> None:
    found = records((0, 0, 4, "unfinished"), (3, 0, 9, "unfinished"))
    table = table_of(found, ["a", "b"], [[0, 1, 2], [3]], horizon_s=9, abandoned=[1, 2])
    assert table["finish"].tolist() == ["abandoned", "unfinished"], "nobody knows what follows b's"
    assert np.isnan(table["time"][0]) and table["end"][0] == 4 and table["time"][1] == 9


def test_who_gave_up_has_waited_until_then() -> None:
    found = records((0, 0, 9, "gave_up"), (1, 0, 4, "stop"), (2, 5, 6, "stop"))
    summary = summarise_programs(
        table_of(found, ["a", "b"], [[0], [1, 2]], horizon_s=9), found, [[0], [1, 2]], horizon_s=9
    )
    keys = ("ttft_first_turn_p50_s", "ttft_first_turn_max_s", "longest_wait_s")
    assert [summary[key] for key in keys] == [5.5, 9, 9]


def test_an_unfinished_program_counts_with_its_time_so_far() -> None:
    thinks = records((0, 0, 1, "stop"), (2, 2, 9, "unfinished"))
    table = table_of(thinks, ["a", "b"], [[0, 1], [2]], horizon_s=9)
    assert table["finish"].tolist() == ["unfinished", "unfinished"]
    assert table["time"].tolist() == [9, 7] and np.isnan(table["end"]).all()
    assert table["first_turn_ttft"].tolist() == [0.5, 7]
    summary = summarise_programs(table, thinks, [[0, 1], [2]], horizon_s=9)
    assert (summary["program_time_mean_s"], summary["programs_unfinished"]) == (8, 2)
    assert summary["ttft_first_turn_max_s"] == 7


def test_the_window_is_while_all_are_at_work() -> None:
    rows = [(0, 0, 5, "stop"), (1, 1, 3, "stop"), (2, 3, 8, "stop"), (3, 5, 6, "stop")]
    table = table_of(records(*rows), list("abcd"), [[0], [1], [2], [3]], horizon_s=9)
    assert window_at_work(table, 2, 9) == (1, 6), "who begins as another ends takes its place"
    assert window_at_work(table, 7, 9) == window_at_work(table, 2, 9)
    assert window_at_work(table, 1, 9) == (0, 8)
    assert window_at_work(table, 2, 9, warmup_s=2.5) == (2.5, 6)
    summary = summarise_programs(table, records(*rows), [[0], [1], [2], [3]], horizon_s=9, window=(1, 6))
    assert summary["programs_per_hour"] == pytest.approx(3 / 5 * 3600)
    assert summary["programs_per_hour_whole"] == pytest.approx(4 / 8 * 3600)
    assert summary["at_work_mean"] == pytest.approx(2)
    assert summary["program_window_s"] == 5


def test_programs_of_the_warm_up_count_in_rates_alone() -> None:
    rows = [(0, 0, 5, "stop"), (1, 1, 3, "stop"), (2, 3, 9, "stop")]
    table = table_of(records(*rows), list("abc"), [[0], [1], [2]], horizon_s=9)
    found = summarise_programs(table, records(*rows), [[0], [1], [2]], horizon_s=9, warmup_s=1)
    assert (found["programs"], found["program_time_mean_s"]) == (2, 4)
    assert found["programs_per_hour"] == pytest.approx(3 / 8 * 3600), "a ends after the warm-up"


def test_each_request_counts_as_its_part_of_its_program() -> None:
    rows = [(0, 0, 1, "stop"), (1, 2, 3, "stop"), (2, 4, 5, "stop"), (3, 6, 7, "stop")]
    table = table_of(records(*rows), ["a"], [[0, 1, 2, 3]], horizon_s=7)
    summary = summarise_programs(table, records(*rows), [[0, 1, 2, 3]], horizon_s=7, window=(2, 6))
    assert summary["programs_per_hour"] == pytest.approx(2 / 4 / 4 * 3600)
    whole = summarise_programs(table, records(*rows), [[0, 1, 2, 3]], horizon_s=7)
    assert whole["programs_per_hour"] == pytest.approx(1 / 7 * 3600)


def programs(**times: float) -> Columns:
    table = {name: np.zeros(len(times), kind) for name, kind in PROGRAM_COLUMNS.items()}
    table["program"][:] = list(times)
    table["time"][:] = list(times.values())
    table["finish"][:] = ["abandoned" if np.isnan(time) else "completed" for time in times.values()]
    return table


def test_policies_are_paired_by_program() -> None:
    slow = programs(a=10, b=20, c=40, d=12, e=9)
    fast = programs(e=5, a=5, b=10, c=20, d=6)
    found = time_ratio([(slow, fast)])
    assert found is not None and found.mean == pytest.approx(91 / 46)
    assert found.low is not None and found.high is not None and found.low < 91 / 46 < found.high
    assert time_ratio([(slow, programs(a=5, b=10, c=NAN, d=6, e=5))]) is None, "another set of programs"
    assert time_ratio([]) is None
    few = time_ratio([(programs(a=4.0), programs(a=2.0))])
    assert few is not None and (few.mean, few.low) == (2, None)


def test_seeds_are_averaged_for_each_program_before_they_are_paired() -> None:
    """More seeds of the same programs are no more programs, and a second copy of one that is drawn twice is none."""
    one = [(programs(a=10, b=20), programs(a=5, b=10)), (programs(a=20, b=30), programs(a=10, b=20))]
    found = time_ratio(one)
    assert found is not None and found.mean == pytest.approx((15 + 25) / (7.5 + 15)) and found.low is None
    twice = time_ratio([(programs(a=10, **{"a#2": 30, "b": 20}), programs(a=5, **{"a#2": 15, "b": 10}))])
    assert twice is not None and twice.mean == pytest.approx((20 + 20) / (10 + 10))


def test_programs_that_begin_by_themselves_may_pile_up() -> None:
    arrival = np.arange(200.0)
    table = {
        "first_arrival": arrival, "end": arrival + 3, "finish": np.array(["completed"] * 200, "O"),
    }  # fmt: skip
    assert programs_saturated(table, 203.0) is False
    assert programs_saturated(table | {"end": arrival * 3 + 3}, 603.0) is True
