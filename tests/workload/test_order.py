"""Rows out of order: which are blamed, which are sorted, and what a lenient read may drop."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.workload import Trace, TraceError, read_trace
from fastserve.workload.reader.order import examine

NS = 10**9


def read(folder: Path, times: list[float], **options: object) -> Trace:
    path = folder / "file"
    path.write_text("arrival_s,in,out\n" + "".join(f"{time},{i + 1},1\n" for i, time in enumerate(times)))
    return read_trace(path, **options)  # type: ignore[arg-type]


def note(trace: Trace) -> str:
    assert trace.reading is not None
    return " ".join(trace.reading.notes)


@pytest.mark.parametrize("row", [0, 1, 7, 50, 98])
@pytest.mark.parametrize("time", [9999.0, 500.0])
def test_a_clock_ahead_blames_its_own_row(tmp_path: Path, row: int, time: float) -> None:
    times = [float(i) for i in range(100)]
    times[row] = time
    with pytest.raises(TraceError, match=rf":{row + 2}: the request arrives after the one below it"):
        read(tmp_path, times)
    trace = read(tmp_path, times, lenient=True)
    assert trace.dropped == {"unsorted": 1}
    assert row + 1 not in trace.prompt.tolist()


@pytest.mark.parametrize("row", [10, 50, 99])
def test_a_clock_behind_blames_its_own_row(tmp_path: Path, row: int) -> None:
    times = [float(i) for i in range(100)]
    times[row] = 3.0
    with pytest.raises(TraceError, match=rf":{row + 2}: the request arrives before the one above it"):
        read(tmp_path, times)
    assert row + 1 not in read(tmp_path, times, lenient=True).prompt.tolist()


def test_several_wrong_clocks(tmp_path: Path) -> None:
    times = [float(i) for i in range(100)]
    times[10], times[11], times[60] = 9999.0, 9998.0, 2.0
    trace = read(tmp_path, times, lenient=True)
    assert trace.dropped == {"unsorted": 3}
    assert set(range(1, 101)) - set(trace.prompt.tolist()) == {11, 12, 61}


def test_rows_that_were_written_late_are_sorted(tmp_path: Path) -> None:
    times = [float(i) for i in range(200)]
    times[20], times[21] = times[21], times[20]
    times[90] = 89.5
    times[91] = 89.0
    trace = read(tmp_path, times)
    assert trace.arrival.tolist() == sorted(int(time * NS) for time in times)
    assert "2 of 200 rows stood out of order, as rows that were written late" in note(trace)
    assert trace.dropped == {}


@pytest.mark.parametrize("lenient", [False, True])
def test_two_files_one_after_the_other_are_sorted_and_ties_keep_their_order(tmp_path: Path, lenient: bool) -> None:
    times = [*(float(i) for i in range(60)), *(float(i) for i in range(40))]
    trace = read(tmp_path, times, lenient=lenient)
    assert len(trace) == 100
    assert trace.prompt.tolist()[:4] == [1, 61, 2, 62]
    assert "sorted by arrival: 40 of 100 rows stood out of order, as in a file merged of several" in note(trace)


def test_everything_goes_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    rows = [(random.Random(i).random() * 100, i) for i in range(50)]
    path.write_text(
        "".join(
            f'{{"arrival_s": {time}, "prompt_tokens": {i + 1}, "output_tokens": {i + 2}, "client": "c{i}", '
            f'"priority": {i}, "hash_ids": [{i}], "guess": {i + 3}}}\n'
            for time, i in rows
        )
    )
    trace = read_trace(path)
    order = [i for _, i in sorted(rows)]
    assert trace.prompt.tolist() == [i + 1 for i in order]
    assert trace.client == [f"c{i}" for i in order]
    assert trace.hash_ids == [[i] for i in order]
    assert trace.priority is not None and trace.priority.tolist() == order
    assert trace.guess is not None and trace.guess.tolist() == [i + 3 for i in order]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_as_few_rows_as_can_be_are_out_of_place(times: list[int]) -> None:
    kept = [1] * len(times)
    for i, time in enumerate(times):
        kept[i] = 1 + max([kept[j] for j in range(i) if times[j] <= time], default=0)
    found = examine(np.array(times, np.int64))
    assert len(found.wrong) + found.moved == len(times) - max(kept)


@pytest.mark.parametrize(("bad", "stops"), [(5, False), (6, True), (40, True)])
def test_a_lenient_read_drops_five_percent_and_then_says_what_to_do(tmp_path: Path, bad: int, stops: bool) -> None:
    path = tmp_path / "file"
    path.write_text("arrival_s,in,out\n" + "".join(f"{i},{-1 if i < bad else 5},1\n" for i in range(100)))
    if not stops:
        assert read_trace(path, lenient=True).dropped == {"negative": bad}
        return
    with pytest.raises(TraceError) as caught:
        read_trace(path, lenient=True)
    assert f"--lenient would drop {bad} of 100 rows ({bad} %): {bad} negative (the first in line 2: prompt" in str(
        caught.value
    )
    assert "It drops up to 5 %" in str(caught.value) and "--columns" in str(caught.value)


def test_optional_columns_never_cost_a_row(tmp_path: Path) -> None:
    path = tmp_path / "file"
    cells = ["high" if i == 7 else str(i) for i in range(100)]
    path.write_text(
        "arrival_s,in,out,priority,slo_e2e_ms\n" + "".join(f"{i},5,1,{c},soon\n" for i, c in enumerate(cells))
    )
    trace = read_trace(path)
    assert len(trace) == 100
    assert trace.priority is not None and trace.priority.tolist() == [0 if i == 7 else i for i in range(100)]
    assert "1 cell of priority cannot be read and count as not given (line 9: priority: 'high' is not a" in note(trace)
    assert trace.e2e_slo is None
    assert trace.reading is not None
    assert trace.reading.ignored["slo_e2e_ms"].startswith("e2e_slo: 'soon' is not a number")
    off = read_trace(path, columns="priority=,e2e_slo=")
    assert off.priority is None and off.reading is not None and set(off.reading.ignored) == {"priority", "slo_e2e_ms"}
    with pytest.raises(TraceError, match="leaves the prompt tokens out"):
        read_trace(path, columns="prompt=")


def test_sums_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("arrival_s,cached,fresh,out\n0,10,5,1\n1,0,7,1\n2,3,0,2\n")
    trace = read_trace(path, columns="prompt=cached+fresh")
    assert trace.prompt.tolist() == [15, 7, 3]
    assert trace.reading is not None and trace.reading.columns["prompt"] == "cached + fresh"
    path.write_text("arrival_s,cached,fresh,out\n0,10,5,1\n1,0,0,1\n")
    with pytest.raises(TraceError, match=":3: prompt tokens: 0, but the least allowed is 1"):
        read_trace(path, columns="prompt=cached+fresh")
    with pytest.raises(TraceError, match="there is no column 'stale'"):
        read_trace(path, columns="prompt=cached+stale")


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    ("rows", "second"), [(1000, range(0, 1000, 30)), (1000, range(3)), (5000, range(100, 4900, 700))]
)
def test_a_short_second_source_is_sorted_wherever_it_stands(
    tmp_path: Path, rows: int, second: range, lenient: bool
) -> None:
    first = [float(i) for i in range(rows)]
    for times in ([*first, *(i + 0.5 for i in second)], [*first[:700], *(i + 0.5 for i in second), *first[700:]]):
        trace = read(tmp_path, times, lenient=lenient)
        assert trace.arrival.tolist() == [int(time * NS) for time in sorted(times)]
        assert trace.dropped == {}
        assert "as in a file merged of several" in note(trace)


def test_a_last_row_whose_clock_is_behind_is_blamed_with_others(tmp_path: Path) -> None:
    times = [float(i) for i in range(100)]
    times[40], times[41], times[-2], times[-1] = 9999.0, 9998.0, 7.0, 5.0
    with pytest.raises(TraceError, match=r":42: the request arrives after the one below it, by 9,957 s"):
        read(tmp_path, times)
    trace = read(tmp_path, times, lenient=True)
    assert trace.dropped == {"unsorted": 4} and len(trace) == 96


def test_two_neighbours_that_changed_places_are_no_wrong_clock_in_a_short_file_either(tmp_path: Path) -> None:
    times = [float(i) for i in range(20)]
    times[5], times[6] = times[6], times[5]
    trace = read(tmp_path, times)
    assert len(trace) == 20 and "1 of 20 rows stood out of order, as rows that were written late" in note(trace)


@pytest.mark.parametrize("row", [0, -1])
def test_a_first_or_last_row_far_from_all_others_is_told_and_a_lenient_read_drops_it(tmp_path: Path, row: int) -> None:
    times = [1e6 + i for i in range(20)]
    times[row] = 0.0 if row == 0 else 9e6
    assert "if its clock is wrong, --lenient drops it" in note(read(tmp_path, times))
    trace = read(tmp_path, times, lenient=True)
    assert len(trace) == 19 and trace.dropped == {"unsorted": 1}
    assert int(trace.arrival[-1]) == 18 * NS
