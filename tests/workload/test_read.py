"""read_trace: formats by content, exact times, and one clear error per bad row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.workload import Trace, TraceError, read_trace

NS = 10**9
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
AZURE_ROWS = "2023-11-16 23:59:59.6805900,374,44\r\n2023-11-17 00:00:00.9951690,396,109"


def read(folder: Path, text: str | bytes, **options: object) -> Trace:
    path = folder / "file"  # no suffix: content alone decides
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_trace(path, **options)  # type: ignore[arg-type]


def fault(folder: Path, text: str | bytes, **options: object) -> str:
    with pytest.raises(TraceError) as caught:
        read(folder, text, **options)
    return str(caught.value).replace(f"{folder / 'file'}", "FILE")


def ignored(trace: Trace) -> dict[str, str]:
    assert trace.reading is not None
    return trace.reading.ignored


def test_azure_across_midnight_is_exact(tmp_path: Path) -> None:
    trace = read(tmp_path, AZURE + AZURE_ROWS)
    assert trace.arrival.tolist() == [0, 1_314_579_000]
    assert trace.prompt.tolist() == [374, 396]
    assert trace.output.tolist() == [44, 109]


@pytest.mark.parametrize(
    ("first", "second", "gap"),
    [
        ("2024-05-12 00:00:00+00:00", "2024-05-12 00:00:00.000000001+00:00", 1),
        ("2024-05-12 00:00:00.1+00:00", "2024-05-12T00:00:00.25Z", 150_000_000),
        ("2024-05-12 02:00:00+02:00", "2024-05-12 00:00:01.5 UTC", 1_500_000_000),
        ("2024-02-28 23:59:59", "2024-02-29 00:00:00.1234567899", 1_123_456_789),
        ("2024-05-11 19:00:00.5-0500", "2024-05-12 00:00:00.75+00", 250_000_000),
    ],
)
def test_fractions_of_any_length_and_zones(tmp_path: Path, first: str, second: str, gap: int) -> None:
    assert read(tmp_path, f"{AZURE}{first},1,1\n{second},1,1\n").arrival.tolist() == [0, gap]


def test_gzip_bom_and_blank_lines(tmp_path: Path) -> None:
    plain = read(tmp_path, AZURE + AZURE_ROWS)
    packed = read(tmp_path, gzip.compress(b"\xef\xbb\xbf" + (AZURE + AZURE_ROWS + "\r\n\r\n").encode()))
    assert packed.digest() == plain.digest()


def test_mooncake_is_in_ms_and_bailian_in_s(tmp_path: Path) -> None:
    row = '{"timestamp": 27, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]%s}\n'
    later = row.replace("27", "3027")
    mooncake = read(tmp_path, (row + later) % ("", ""))
    assert mooncake.arrival.tolist() == [0, 3 * NS]
    assert mooncake.hash_ids == [[1, 2], [1, 2]]
    assert mooncake.block_size == 512
    chat = ', "chat_id": 7, "parent_chat_id": -1'
    bailian = (row + later).replace("600", "20") % (chat, chat)
    assert read(tmp_path, bailian).arrival.tolist() == [0, 3000 * NS]
    assert read(tmp_path, bailian).block_size == 16


def test_hash_ids_that_fit_no_block_size(tmp_path: Path) -> None:
    row = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2, 3, 4, 5, 6, 7]}'
    trace = read(tmp_path, row)
    assert (len(trace), trace.hash_ids, trace.dropped) == (1, None, {})
    assert ignored(trace)["hash_ids"] == "their number fits no usual block size; a column block_size would tell it"
    six = row.replace(", 7]", "]")
    assert read(tmp_path, six[:-1] + ', "block_size": 100}').block_size == 100
    for size, why in (
        ("100", "not the blocks of 100 tokens"),
        ("[100]", "block_size is not one positive whole number"),
    ):
        trace = read(tmp_path, f'{row[:-1]}, "block_size": {size}}}')
        assert trace.hash_ids is None
        assert ignored(trace)["hash_ids"].startswith(why)


def test_ids_of_full_blocks_alone_and_hex_ids(tmp_path: Path) -> None:
    row = '{"timestamp": %d, "input_length": %d, "output_length": 5, "hash_ids": %s, "block_size": 64}\n'
    assert read(tmp_path, row % (0, 70, "[4]") + row % (1, 130, "[4, 5]")).hash_ids == [[4], [4, 5]]
    hexed = read(tmp_path, row % (0, 70, '["0x0a", "ff"]') + row % (1, 64, '["0a"]'))
    assert hexed.hash_ids == [[10, 255], [10]]
    mixed = read(tmp_path, row % (0, 70, '["0a", "ff"]') + row % (1, 64, "[10]"))
    assert mixed.hash_ids is None
    assert "numbers in some rows" in ignored(mixed)["hash_ids"]


@pytest.mark.parametrize("extra", [False, True])
def test_burstgpt_drops_failures_by_its_own_rule(tmp_path: Path, extra: bool) -> None:
    head = "Timestamp,Session ID,Elapsed time,Model," if extra else "Timestamp,Model,"
    middle = "{s},1.5,GPT-4" if extra else "GPT-4"
    rows = [(5, 472, 18, "a"), (45, 12, 0, "b"), (46, 0, 0, "c"), (118, 417, 276, "a")]
    text = head + "Request tokens,Response tokens,Total tokens,Log Type\n"
    text += "".join(f"{t},{middle.format(s=s)},{p},{o},{p + o},Conversation log\n" for t, p, o, s in rows)
    trace = read(tmp_path, text)
    assert trace.arrival.tolist() == [0, 113 * NS]
    assert trace.output.tolist() == [18, 276]
    assert trace.dropped == {"failed": 2}
    assert trace.program == (["a", "a"] if extra else None)


def test_every_field_of_our_own_format(tmp_path: Path) -> None:
    rows = [
        {"arrival_s": 10.000000001, "prompt_tokens": 3, "output_tokens": 4, "client": "x", "priority": -2},
        {"arrival_s": 10.5, "prompt_tokens": 3, "output_tokens": 4, "slo": {"ttft_ms": 0.5, "e2e_ms": 9}, "guess": 0},
        {"arrival_s": 11, "prompt_tokens": 3, "output_tokens": 4, "max_tokens": 7, "program": "p", "client": 5},
    ]
    trace = read(tmp_path, "\n".join(map(json.dumps, rows)))
    assert trace.arrival.tolist() == [0, 499_999_999, 999_999_999]
    assert trace.client == ["x", "", "5"]
    assert trace.program == ["", "", "p"]
    assert [column.tolist() for column in (trace.priority, trace.max_tokens, trace.guess) if column is not None] == [
        [-2, 0, 0],
        [0, 0, 7],
        [0, 1, 0],
    ]
    assert trace.ttft_slo is not None
    assert trace.ttft_slo.tolist() == [0, 500_000, 0]
    assert trace.e2e_slo is not None
    assert trace.e2e_slo.tolist() == [0, 9_000_000, 0]
    assert trace.tpot_slo is None
    assert read(tmp_path, json.dumps(rows)).digest() == trace.digest()


@pytest.mark.parametrize(
    "header",
    ["arrived_at,num_prefill_tokens,num_decode_tokens", "timestamp,input_length,output_length", "Arrival Time;ISL;OSL"],
)
def test_synonyms(tmp_path: Path, header: str) -> None:
    text = header + "\n0.5,7,8\n1.75,9,10\n".replace(",", header[header.find(";")] if ";" in header else ",")
    trace = read(tmp_path, text)
    assert (trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist()) == (
        [0, 1_250_000_000],
        [7, 9],
        [8, 10],
    )


def test_columns_by_hand(tmp_path: Path) -> None:
    text = "ts2,a,b,who\n1700000000123.5,7,8,z\n1700000000124,9,10,y\n"
    trace = read(tmp_path, text, columns="arrival=ts2:ms, prompt=a, output=b, client=who")
    assert trace.arrival.tolist() == [0, 500_000]
    assert trace.client == ["z", "y"]
    assert "columns found: ts2, a, b, who" in fault(tmp_path, text)
    assert "there is no column 'c'; columns found: ts2, a, b, who" in fault(tmp_path, text, columns="prompt=c")
    assert "unknown unit 'min'" in fault(tmp_path, text, columns="arrival=ts2:min")
    assert "cannot read 'prompt'" in fault(tmp_path, text, columns="prompt")
    assert "takes no unit" in fault(tmp_path, text, columns="prompt=a:ms")


def test_a_csv_without_header_has_numbered_columns(tmp_path: Path) -> None:
    assert read(tmp_path, "0,5,6\n1,7,8\n", columns="arrival=0:ms,prompt=1,output=2").output.tolist() == [6, 8]
    assert "columns found: 0, 1, 2" in fault(tmp_path, "0,5,6\n1,7,8\n")


OURS = "arrival_s,prompt_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("row", "reason", "message"),
    [
        ("1,-3,4", "negative", "prompt tokens: -3 is negative"),
        ("1,3,0", "zero", "output tokens: 0, but the least allowed is 1"),
        ("1,,4", "missing", "prompt tokens: missing"),
        ("nan,3,4", "not a number", "arrival: nan is not a number"),
        ("1,3,NaN", "not a number", "output tokens: NaN is not a number"),
        ("1,3,inf", "not a number", "output tokens: inf is not a number"),
        ("1,3.5,4", "not a number", "prompt tokens: 3.5 is not a whole number"),
        ("1,x,4", "not a number", "prompt tokens: 'x' is not a number"),
        ("1,3,10000001", "absurd", "10,000,001 is absurd"),
        ("1,3,99999999999999999999999", "absurd", "absurd"),
        ("1,3,1e999999999", "absurd", "absurd"),
        ("1,3,1e-999999999", "not a number", "not a whole number"),
        ("-1,3,4", "negative", "arrival: -1 is negative"),
        ("1e30,3,4", "absurd", "arrival: 1e30 is absurd"),
        ("99999999999,3,4", "absurd", "is the unit right?"),
        ("0.4,3,4", "unsorted", "arrives before the one above it"),
        ("1,3", "malformed", "the row has 2 cells, the first row has 3"),
    ],
)
def test_a_bad_row_names_file_and_line_or_is_counted(tmp_path: Path, row: str, reason: str, message: str) -> None:
    text = f"{OURS}0.5,1,1\n{row}\n2,2,2\n"
    error = fault(tmp_path, text)
    assert error.startswith("FILE:3: ")
    assert message in error
    assert "--lenient" in error
    trace = read(tmp_path, text, lenient=True)
    assert trace.dropped == {reason: 1}
    assert trace.prompt.tolist() == [1, 2]
    assert trace.arrival.tolist() == [0, 1_500_000_000]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"arrival_s": 1, "prompt_tokens": NaN, "output_tokens": 2}', "not a number"),
        ('{"arrival_s": 1, "prompt_tokens": true, "output_tokens": 2}', "not a number"),
        ('{"arrival_s": null, "prompt_tokens": 2, "output_tokens": 2}', "missing"),
        ('{"arrival_s": [1], "prompt_tokens": 2, "output_tokens": 2}', "not a number"),
        ('{"prompt_tokens": 2, "output_tokens": 2}', "missing"),
        ('{"arrival_s": 1, "prompt_tokens": 2', "malformed"),
        ("[1, 2, 3]", "malformed"),
    ],
)
def test_a_bad_json_line(tmp_path: Path, line: str, reason: str) -> None:
    good = '{"arrival_s": %d, "prompt_tokens": 2, "output_tokens": 2}\n'
    text = good % 0 + "\n" + line + "\n" + good % 9
    assert fault(tmp_path, text).startswith("FILE:3: ")
    trace = read(tmp_path, text, lenient=True)
    assert trace.dropped == {reason: 1}
    assert len(trace) == 2


def test_the_first_bad_line_is_reported_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    text = OURS + "0,1,1\n1,1\n2,-1,1\n3,1,0\n"
    assert fault(tmp_path, text).startswith("FILE:3: ")
    assert fault(tmp_path, OURS + "0,1,1\n2,-1,1\n1,1\n").startswith("FILE:3: ")
    many = text + "".join(f"{i},1,1\n" for i in range(4, 80))
    assert read(tmp_path, many, lenient=True).dropped == {"malformed": 1, "negative": 1, "zero": 1}


def test_whole_numbers_written_as_decimals_are_accepted(tmp_path: Path) -> None:
    assert read(tmp_path, OURS + "0,12.0,1e2\n").output.tolist() == [100]


@pytest.mark.parametrize("text", ["", "\n \n", OURS, OURS + "x,y,z\n"])
def test_nothing_usable(tmp_path: Path, text: str) -> None:
    assert fault(tmp_path, text, lenient=True).startswith("FILE: ")


def test_what_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        read_trace(tmp_path / "absent")
    with pytest.raises(TraceError, match=r"no such file; there is \S+traces.azure-conv-like\.jsonl$"):
        read_trace(tmp_path / "azure-conv-like.jsonl")
    with pytest.raises(TraceError, match="folder"):
        read_trace(tmp_path)
    assert "not text" in fault(tmp_path, b"PNG1\xff\xfe\x00")
    assert "Parquet file cannot be read" in fault(tmp_path, b"PAR1\xff\xfe\x00")
    assert "zip archive; unpack it" in fault(tmp_path, b"PK\x03\x04...")
    assert "damaged" in fault(tmp_path, gzip.compress(b"x" * 100)[:-6])
    assert "per hour" in fault(tmp_path, "day,hour,date,conversation\n0,0,2024-05-12,91156\n")
    assert "per hour" in fault(tmp_path, "hour_start_s,requests,sessions\n0,85,1\n")
    assert "is not JSON" in fault(tmp_path, "[1, ")


CELLS = ["0", "1", "-1", "1.5", "nan", "", "x", "1e400", "2023-11-16 18:15:46.68", '"', "XXX", "²", "{", "9" * 5000]
NAMES = ["timestamp", "arrival_s", "prompt_tokens", "output_tokens", "hash_ids", "block_size", "slo_e2e_ms", "guess"]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
    st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=5), max_size=4),
    st.booleans(),
    st.sampled_from([None, 2.0]),
)
def test_no_file_ends_in_anything_but_a_trace_or_a_clear_error(
    names: list[str], rows: list[list[str]], lenient: bool, rate: float | None
) -> None:
    with TemporaryDirectory() as folder:
        as_json = "\n".join(json.dumps(dict(zip(names, row, strict=False))) for row in rows)
        for text in ("\n".join(",".join(row) for row in [names, *rows]), as_json):
            try:
                trace = read(Path(folder), text, lenient=lenient, rate=rate)
            except TraceError:
                continue
            assert trace.prompt.min() >= 1
            assert trace.output.min() >= 1


LENGTHS = "num_prefill_tokens,num_decode_tokens,num_predicted_decode_tokens\n" + "".join(
    f"{i},{2 * i},{3 * i}\n" for i in range(1, 201)
)


def test_lengths_need_a_rate_and_say_so(tmp_path: Path) -> None:
    assert "--rate" in fault(tmp_path, LENGTHS)
    assert "--rate" in fault(tmp_path, AZURE + "XXX,3,4\r\nXXX,5,6\r\n")
    assert "--arrivals is only for" in fault(tmp_path, OURS + "0,1,1\n", arrivals="poisson")


def test_lengths_are_shuffled_by_the_seed_and_keep_their_rows_together(tmp_path: Path) -> None:
    one = read(tmp_path, LENGTHS, rate=2.0, seed=1)
    assert sorted(one.prompt.tolist()) == list(range(1, 201))
    assert (one.output == 2 * one.prompt).all()
    assert one.guess is not None
    assert (one.guess == 3 * one.prompt).all()
    assert (np.diff(one.prompt) != 1).any()
    assert one.rate == pytest.approx(2.0)
    assert read(tmp_path, LENGTHS, rate=2.0, seed=1).digest() == one.digest()
    assert read(tmp_path, LENGTHS, rate=2.0, seed=2).digest() != one.digest()
    even = read(tmp_path, LENGTHS, rate=2.0, seed=1, arrivals="deterministic")
    assert even.prompt.tolist() == one.prompt.tolist()
    assert set(np.diff(even.arrival).tolist()) == {NS // 2}


def test_window_then_first_rows_then_rate(tmp_path: Path) -> None:
    text = OURS + "".join(f"{i},{i + 1},1\n" for i in range(100))
    trace = read(tmp_path, text, start_s=10, duration_s=50, num_requests=11, rate=10.0)
    assert trace.prompt.tolist() == list(range(11, 22))
    assert trace.span == NS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "the file holds no usable request"),
        ("{}", "the file holds no usable request"),
        ("[1, 2]", ":1: this is not a JSON object with one request; a trace has one JSON object a request"),
        ('{"arrival_s": 0, "prompt_tokens"\n', ":1: this line is not JSON"),
    ],
)
def test_a_file_without_a_column_says_what_is_wrong_with_it(tmp_path: Path, text: str, message: str) -> None:
    assert message in fault(tmp_path, text)


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "N/A", "<NA>"])
def test_words_for_nothing_are_empty_cells_of_optional_columns(tmp_path: Path, word: str) -> None:
    path = tmp_path / "file"
    path.write_text(
        "arrival_s,in,out,priority,max_tokens,guess,slo_e2e_ms\n"
        + "".join(f"{i},5,1,{word if i % 2 else 3},{word},{word},{word if i % 2 else 9}\n" for i in range(10))
    )
    trace = read_trace(path)
    assert trace.priority is not None and trace.priority.tolist() == [3, 0] * 5
    assert trace.e2e_slo is not None and trace.e2e_slo.tolist() == [9_000_000, 0] * 5
    assert trace.reading is not None and not trace.reading.ignored and not trace.reading.notes
