"""The unit of the arrivals: given, named, by the size of the numbers, by the format, or judged by what it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve.cli import trace_arguments
from fastserve.workload import Trace, TraceError, read_trace
from fastserve.workload.reader import parse

NS = 10**9


def read(folder: Path, header: str, times: list[str], tokens: str = "100,20", **options: object) -> Trace:
    path = folder / "file"
    path.write_text(f"{header}\n" + "".join(f"{time},{tokens}\n" for time in times))
    return read_trace(path, **options)  # type: ignore[arg-type]


def steps(start: int, gap: int, n: int = 20) -> list[str]:
    return [str(start + gap * i) for i in range(n)]


def why(trace: Trace) -> tuple[str, str, str]:
    assert trace.reading is not None
    return trace.reading.unit, trace.reading.why, trace.reading.epoch


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("arrival_s", "s"),
        ("arrival_ms", "ms"),
        ("arrivalTimeMs", "ms"),
        ("Arrival Time (us)", "us"),
        ("timestamp_us", "us"),
        ("start_time_ns", "ns"),
        ("arrival_timestamp_ms", "ms"),
        ("time (seconds)", "s"),
    ],
)
def test_by_the_columns_name(tmp_path: Path, name: str, unit: str) -> None:
    gap = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    trace = read(tmp_path, f"{name},in,out", steps(0, gap), columns=f"arrival={name}")
    assert trace.arrival.tolist() == [i * NS for i in range(20)]
    assert why(trace)[:2] == (unit, "--columns says so")
    assert read(tmp_path, f"{name},in,out", steps(0, gap)).digest() == trace.digest()


@pytest.mark.parametrize("name", ["columns", "returns", "status", "items", "t", "timestamp", "arrivals"])
def test_a_name_that_only_ends_alike_has_no_unit(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, f"{name},in,out", steps(0, 1), columns=f"arrival={name}").span == 19 * NS


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_unix_times_tell_their_unit_by_their_size(tmp_path: Path, unit: str, scale: int) -> None:
    trace = read(tmp_path, "timestamp,in,out", steps(1_752_000_000 * scale, 2 * scale))
    assert trace.span == 38 * NS
    found, how, epoch = why(trace)
    assert (found, how) == (unit, f"by their size, Unix times in {unit}")
    assert epoch == "Unix time, the first at 2025-07-08 18:40:00 UTC"
    text = '{"timestamp": "%s", "input_length": 20, "output_length": 4, "hash_ids": [1, 2]}\n'
    path = tmp_path / "lines"
    path.write_text(text % (1_752_000_000 * scale) + text % (1_752_000_003 * scale))  # texts, and Mooncake's columns
    assert read_trace(path).span == 3 * NS


def test_numbers_too_far_apart_to_be_seconds_are_refused_with_the_flag(tmp_path: Path) -> None:
    for gap, best, rate in ((250, "ms", "4"), (250_000, "us", "4"), (40_000_000, "ns", "25")):
        with pytest.raises(TraceError) as caught:
            read(tmp_path, "timestamp,in,out", steps(0, gap))
        assert f"as {best} it makes {rate} requests/s. Say which it is: --time-unit {best} (or --time-unit s" in str(
            caught.value
        )
        trace = read(tmp_path, "timestamp,in,out", steps(0, gap), time_unit=best)
        assert trace.rate == pytest.approx(float(rate))
        assert why(trace)[:2] == (best, "--time-unit says so")
        assert read(tmp_path, "timestamp,in,out", steps(0, gap), time_unit="s").span == 19 * gap * NS
        assert read(tmp_path, "timestamp,in,out", steps(0, gap), rate=2.0).rate == pytest.approx(2.0)


def test_numbers_that_cannot_be_seconds(tmp_path: Path) -> None:
    with pytest.raises(
        TraceError, match=r"400,000,000 apart, which are no seconds\. Say what they are: --time-unit ns"
    ):
        read(tmp_path, "timestamp,in,out", steps(0, 400_000_000))
    assert read(tmp_path, "timestamp,in,out", steps(0, 400_000_000), time_unit="ns").span == 19 * 400_000_000


def test_few_requests_far_apart_and_named_ones_stand(tmp_path: Path) -> None:
    assert read(tmp_path, "timestamp,in,out", steps(0, 250, 9)).span == 8 * 250 * NS
    assert read(tmp_path, "arrival_s,in,out", steps(0, 250)).span == 19 * 250 * NS


def test_whole_numbers_where_a_format_has_fractions_are_not_believed(tmp_path: Path) -> None:
    vidur = "arrived_at,num_prefill_tokens,num_decode_tokens"
    with pytest.raises(TraceError, match=r"arrived_at read as s \(as Vidur files have \(whole numbers\)\) makes one"):
        read(tmp_path, vidur, steps(0, 250))
    assert read(tmp_path, vidur, [f"{250.5 * i}" for i in range(20)]).span == 19 * 250.5 * NS
    burst = "Timestamp,Request tokens,Response tokens,Total tokens"
    assert read(tmp_path, burst, steps(5, 250), "100,20,120").span == 19 * 250 * NS


def test_bare_numbers_are_seconds_and_what_else_they_could_be_is_told(tmp_path: Path) -> None:
    trace = read(tmp_path, "t,in,out", steps(0, 10))
    assert trace.span == 190 * NS
    assert why(trace)[1] == "assumed: whole numbers; as ms they would make 100 requests/s (--time-unit ms)"


def mooncake(folder: Path, times: list[str], prompt: int = 1000, **options: object) -> Trace:
    ids = list(range(-(-prompt // 512)))
    row = '{"timestamp": %s, "input_length": %d, "output_length": 5, "hash_ids": %s}\n'
    path = folder / "mooncake"
    path.write_text("".join(row % (time, prompt, ids) for time in times))
    return read_trace(path, **options)  # type: ignore[arg-type]


def test_a_format_in_ms_that_would_be_faster_than_any_machine(tmp_path: Path) -> None:
    assert mooncake(tmp_path, steps(0, 30)).span == 19 * 30 * NS // 1000
    for prompt, said in ((1000, "1,000 requests/s, 1,005,000 tokens/s"), (300, "305,000 tokens/s")):
        with pytest.raises(TraceError, match="more than any machine serves; as s it makes 1 requests/s") as caught:
            mooncake(tmp_path, steps(0, 1), prompt)
        assert said in str(caught.value)
        assert "--time-unit s (or --time-unit ms" in str(caught.value)
    assert mooncake(tmp_path, steps(0, 1), time_unit="s").span == 19 * NS
    assert mooncake(tmp_path, steps(0, 1), time_unit="ms").span == 19 * NS // 1000


def test_fractions_decide_between_s_and_ms(tmp_path: Path) -> None:
    in_s = mooncake(tmp_path, [f"{0.31 * i:.3f}" for i in range(20)])
    assert in_s.span == 5_890_000_000
    assert "have fractions and are 0.31 apart" in why(in_s)[1]
    in_ms = mooncake(tmp_path, [f"{310.25 * i:.2f}" for i in range(20)])
    assert in_ms.span == 5_894_750_000


def test_an_unknown_unit_and_one_that_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="unknown --time-unit 'min'; use one of s, ms, us, ns"):
        read(tmp_path, "t,in,out", ["0"], time_unit="min")
    with pytest.raises(TraceError, match="arrivals are dates"):
        read(tmp_path, "t,in,out", ["2023-11-16 18:15:46"], time_unit="s")
    with pytest.raises(TraceError, match="no arrival times, so there is no --time-unit"):
        read(tmp_path, "x,in,out", ["0"], time_unit="s", rate=1.0)


DATES = [
    ("2023/11/16 18:15:46", "2023/11/16 18:15:50"),
    ("11/16/2023 6:15:46 PM", "11/16/2023 6:15:50 PM"),
    ("16/11/2023 18:15:46", "16/11/2023 18:15:50"),
    ("16.11.2023 18:15:46", "16.11.2023 18:15:50"),
    ("2023-11-16T18:15:46.25Z", "2023-11-16T18:15:50.25Z"),
    ("11/16/2023 12:15:46 AM", "11/16/2023 12:15:50 am"),
    ("2023-11-16", "2023-11-16 00:00:04"),
]


@pytest.mark.parametrize(("first", "second"), DATES)
def test_forms_of_dates(tmp_path: Path, first: str, second: str) -> None:
    trace = read(tmp_path, "TIMESTAMP,in,out", [first, second])
    assert trace.span == 4 * NS
    assert "the first at 2023-11-16 " in why(trace)[2]


def test_noon_and_midnight(tmp_path: Path) -> None:
    times = ["11/16/2023 12:00:00 AM", "11/16/2023 1:00:00 AM", "11/16/2023 12:00:00 PM", "11/16/2023 1:00:00 PM"]
    assert [ns // (3600 * NS) for ns in read(tmp_path, "t,in,out", times).arrival.tolist()] == [0, 1, 12, 13]


def test_dates_that_cannot_be_read_say_which_can(tmp_path: Path) -> None:
    for times, words in (
        (["1/2/2023 18:15:46", "1/3/2023 18:15:46"], "do not tell the day from the month here"),
        (["Nov 16, 2023 6:15 PM"], "is not a time that is read; forms that are: 2023-11-16 18:15:46.68"),
        (["11/16/2023 25:00:00"], "is not a time that is read; forms that are: 2023-11-16 18:15:46.68"),
        (["2023-11-16 99:99:99"], "is not a time that is read; forms that are"),
    ):
        header = "t;in;out" if "," in times[0] else "t,in,out"
        with pytest.raises(TraceError, match=words):
            read(tmp_path, header, times, tokens="1,1") if "," not in times[0] else _semicolons(tmp_path, times)


def _semicolons(folder: Path, times: list[str]) -> Trace:
    path = folder / "semicolons"
    path.write_text("t;in;out\n" + "".join(f"{time};1;1\n" for time in times))
    return read_trace(path)


@pytest.mark.parametrize("row", [0, 7, 19])
def test_one_wrong_time_does_not_hide_the_unit_of_the_others(tmp_path: Path, row: int) -> None:
    times = steps(1_752_000_000_000, 2000)
    times[row] = "0"
    trace = read(tmp_path, "timestamp,in,out", times, lenient=True)
    assert len(trace) == 19 and trace.dropped == {"unsorted": 1}
    found, _, epoch = why(trace)
    assert found == "ms" and "Unix time, the first at 2025-07-08 18:40:0" in epoch


def test_a_comma_before_the_fraction_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(
        '{"timestamp": "2023-11-16 18:15:46,500", "in": 5, "out": 1}\n'
        '{"timestamp": "2023-11-16T18:15:48,250Z", "in": 5, "out": 1}\n'
    )
    assert read_trace(path).span == 1_750_000_000


@pytest.mark.parametrize("name", ["arrival", "arrival_ms"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", ["duration", "time"])
def test_durations_and_times_of_day_of_a_columnar_file_have_their_own_unit(
    tmp_path: Path, name: str, unit: str, kind: str
) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    of_day = pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    arrival = pa.array([2 * i * scale for i in range(20)], pa.duration(unit) if kind == "duration" else of_day)
    parquet.write_table(pa.table({name: arrival, "in": [5] * 20, "out": [1] * 20}), tmp_path / "file")
    trace = read_trace(tmp_path / "file")
    assert trace.arrival.tolist() == [2 * i * NS for i in range(20)]
    assert why(trace)[2] == "counted from the first request"


def test_an_absurd_rate_is_refused_where_no_longer_unit_is_read_either(tmp_path: Path) -> None:
    days = [f"{45_000 + i / 86_400:.9f}" for i in range(20)]
    with pytest.raises(TraceError, match=r"more than any machine serves, and no longer unit is read: .*--time-unit s"):
        read(tmp_path, "TIMESTAMP,in,out", days)
    assert len(read(tmp_path, "TIMESTAMP,in,out", days, time_unit="s")) == 20
    assert len(read(tmp_path, "arrival_s,in,out", days)) == 20  # its name says so


def test_a_formats_own_unit_is_not_believed_where_it_makes_next_to_no_requests(tmp_path: Path) -> None:
    header, tokens = "timestamp,prompt,prompt_len,output_len", "hello,100,20"
    with pytest.raises(TraceError, match=r"read as ms .*one request in 500 s.* --time-unit us \(or --time-unit ms"):
        read(tmp_path, header, steps(0, 500_000), tokens)
    assert read(tmp_path, header, steps(0, 500_000), tokens, time_unit="us").span == 19 * NS // 2


def test_the_flag_has_the_units_of_the_reader() -> None:
    assert tuple(parse.UNITS) == trace_arguments.UNITS
