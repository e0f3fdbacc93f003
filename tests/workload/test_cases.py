"""Small files of other projects and of users, each of which was once misread, refused or cut: what they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fastserve.workload import TraceError, describe, read_trace
from tests.workload.case_files import CASES, read, told

NS = 10**9


def fault(name: str, **options: object) -> str:
    with pytest.raises(TraceError) as caught:
        read(name, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "n", "span_s", "prompt", "output", "said"),
    [
        ("tracelab_replay_csv.csv", 10, 1.52, 849, 50.5, "arrival_time (ms, as TraceLab replay files have"),
        (
            "timed_trace_in_seconds_with_hash_ids.jsonl",
            20,
            5.403,
            168.15,
            29.45,
            "(s, Mooncake files have whole ms, but",
        ),
        ("sglang_autobench_in_ms.jsonl", 20, 4.574, 20.05, 32.05, "timestamp (ms, as SGLang autobench files have"),
        ("priority_as_text.csv", 20, 9.5, 109.5, 29.5, "ignored priority (priority: 'batch' is not a number, first"),
        ("max_tokens_minus_one.jsonl", 20, 9.5, 100, 20, "max_tokens = max_tokens"),
        ("unsorted_merged_sources.csv", 200, 98.86, 246.715, 52.33, "sorted by arrival: 175 of 200 rows"),
        ("llmservingsim_20rows.jsonl", 20, 4.75, 109.5, 29.5, "arrival_time_ns (ns, by its name"),
        ("blis_tracev2.csv", 2, 0.25, 406, 96, "arrival_time_us (us, by its name"),
        ("baseten_20rows.jsonl", 20, 8.716, 19.5, 14.5, "Unix time, the first at 2025-07-08 18:40:00 UTC"),
        ("baseten_20rows.parquet", 20, 8.716, 19.5, 14.5, "Unix time, the first at 2025-07-08 18:40:00 UTC"),
        ("us_style_dates.csv", 2, 4.0, 385, 76.5, "the first at 2023-11-16 18:15:46 UTC"),
        ("utf16.csv", 1, 0.0, 100, 20, "arrival_s (s, by its name"),
        ("no_client.jsonl", 20, 9.5, 100, 20, "client = client"),
    ],
)
def test_what_they_hold(name: str, n: int, span_s: float, prompt: float, output: float, said: str) -> None:
    trace = read(name)
    assert len(trace) == n
    assert trace.span == pytest.approx(span_s * NS, abs=NS / 1000)
    assert trace.prompt.mean() == pytest.approx(prompt, abs=0.06)
    assert trace.output.mean() == pytest.approx(output, abs=0.06)
    assert said in told(trace)
    assert read(name, lenient=True).digest() == trace.digest()


def test_a_failed_request_is_none() -> None:
    trace = read("blis_tracev2.csv")
    assert trace.dropped == {"failed": 1}
    assert trace.client == ["c0", "c0"]
    assert "error_message" in told(trace)


def test_the_same_as_json_and_parquet() -> None:
    assert read("baseten_20rows.jsonl").digest() == read("baseten_20rows.parquet").digest()


def test_no_limit_and_no_client() -> None:
    limits = read("max_tokens_minus_one.jsonl").max_tokens
    assert limits is not None and set(limits.tolist()) == {0}
    found = describe(read("no_client.jsonl"))
    assert found.clients == {"a": 2, "b": 2}
    assert (found.programs, found.without_client, found.without_program) == (2, 16, 16)


def test_one_clock_that_went_wrong() -> None:
    error = fault("one_clock_glitch.jsonl")
    assert ".jsonl:2: the request arrives after the one below it, by 9,997 s" in error
    trace = read("one_clock_glitch.jsonl", lenient=True)
    assert trace.dropped == {"unsorted": 1}
    assert trace.arrival.tolist() == [0, *(second * NS for second in range(2, 20))]


def test_a_file_in_another_place_reads_alike(tmp_path: Path) -> None:
    copy = tmp_path / "without_suffix"
    shutil.copy(CASES / "baseten_20rows.parquet", copy)
    assert read_trace(copy).digest() == read("baseten_20rows.parquet").digest()
