"""Files are read in parts: alike whatever the size of a part and whoever parses it, and no more than is asked for."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.workload import Trace, TraceError, read_trace
from fastserve.workload.reader import csv_arrow, csv_rows, json_rows, source

NS = 10**9
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few rows a part, and pyarrow from the second on."""
    with _small():
        yield


class _small:
    def __enter__(self) -> None:
        self.kept = source.HEAD, source.FIRST, source.LARGEST, csv_arrow.PAYS, csv_rows.ROWS, json_rows.ROWS
        source.HEAD = source.FIRST = source.LARGEST = 64
        csv_arrow.PAYS = 0
        csv_rows.ROWS = json_rows.ROWS = 3

    def __exit__(self, *error: object) -> None:
        source.HEAD, source.FIRST, source.LARGEST, csv_arrow.PAYS, csv_rows.ROWS, json_rows.ROWS = self.kept


def outcome(path: Path, **options: object) -> object:
    try:
        trace = read_trace(path, **options)  # type: ignore[arg-type]
    except TraceError as error:
        return str(error)
    return trace.digest(), trace.dropped


TIMES = [
    "0",
    "1",
    "1.5",
    "2.000000001",
    "2.0000000019",
    "7e0",
    " 8",
    "8 ",
    "09",
    "+9",
    "0x1f",
    "-1",
    "",
    "x",
    "1_0",
    "99.5.",
]
DATES = ["2023-11-16 18:15:46.68", "2023-11-16 18:15:46", "2023-11-17 00:00:00Z", "2023-11-17T01:00", "2023-11-18"]
TOKENS = ["1", "12", "12.0", "0", "-3", "", "x", "10000001", "1.5", " 5", "1e2", "٣"]
TEXTS = ["a", "007", "0.50", "", '"q"', '"two\nlines"', "ä", "1"]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([TIMES[:6], TIMES, DATES[:3], DATES]),
    st.sampled_from([TOKENS[:3], TOKENS]),
    st.sampled_from([TEXTS[:3], TEXTS]),
    st.integers(0, 2**31),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_pyarrow_and_the_csv_module_read_alike(
    times: list[str], tokens: list[str], texts: list[str], seed: int, lenient: bool, end: str
) -> None:
    rng = np.random.default_rng(seed)
    rows = [f"{rng.choice(times)},{rng.choice(tokens)},7,{rng.choice(texts)},{rng.choice(tokens)}" for _ in range(40)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_text(end.join(["arrival_s,in,out,client,priority", *rows]), newline="")
        whole = outcome(path, lenient=lenient)
        with _small():
            assert outcome(path, lenient=lenient) == whole


def test_pyarrow_reads_what_is_plain(tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would compare the csv module with itself."""
    read = []
    table = csv_arrow.Fast.table
    monkeypatch.setattr(csv_arrow.Fast, "table", lambda *a: read.append(table(*a)) or read[-1])
    for times in (TIMES[:6], [f"{time}" for time in DATES[:2]], ["1", "2"]):
        read.clear()
        path = tmp_path / "file"
        path.write_text("arrival_s,in,out,client\n" + "".join(f"{times[i % len(times)]},3,4,007\n" for i in range(50)))
        read_trace(path, columns="arrival=arrival_s")
        assert len(read) > 5 and all(part is not None for part in read)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_and_parts(tmp_path: Path, small_parts: None, encoding: str, packed: bool) -> None:
    rows = [{"arrival_s": i, "prompt_tokens": i + 1, "output_tokens": 2, "client": "ä" * i} for i in range(30)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    comma = "arrival_s,prompt_tokens,output_tokens,client\n" + "".join(f"{i},{i + 1},2,{'ä' * i}\n" for i in range(30))
    digests = set()
    for text in (lines, lines + "\n", json.dumps(rows, ensure_ascii=False), json.dumps(rows, indent=1), comma):
        data = text.encode(encoding)
        (tmp_path / "file").write_bytes(gzip.compress(data) if packed else data)
        digests.add(read_trace(tmp_path / "file").digest())
    assert len(digests) == 1


def test_utf16_without_its_mark_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("arrival_s,in,out\n0,1,1\n".encode("utf-16-le"))
    with pytest.raises(TraceError, match="if it is UTF-16, it lacks the byte-order mark"):
        read_trace(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, ", "is not JSON"),
        ('[{"a": 1} {"a": 2}]', "Expecting ',' delimiter"),
        ('[{"a": 1}] x', "Extra data after the array"),
        ('[{"a": 1},\n{"a": ]', ":2: this is not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_arrays_that_are_no_json(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(TraceError, match=words):
        read_trace(tmp_path / "file")


@pytest.mark.parametrize("text", ['{\n "a": [\n  1\n ]\n}\n', '{"a": 1,\n "b": 2}\n', '{\n "a": 1\n}\n{\n "a": 2\n}\n'])
def test_an_object_over_several_lines_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(TraceError, match="one JSON object over several lines; a trace has one object a line"):
        read_trace(tmp_path / "file")


def test_a_column_that_comes_late(tmp_path: Path, small_parts: None) -> None:
    rows = [f'{{"arrival_s": {i}, "prompt_tokens": 1, "output_tokens": 2}}' for i in range(30)]
    rows[25] = rows[25][:-1] + ', "priority": 3, "client": "x", "slo": {"e2e_ms": 5}, "hash_ids": [9]}'
    (tmp_path / "file").write_text("\n".join(rows))
    trace = read_trace(tmp_path / "file")
    late = [i == 25 for i in range(30)]
    assert trace.priority is not None and trace.priority.tolist() == [3 * one for one in late]
    assert trace.client == ["x" if one else "" for one in late]
    assert trace.e2e_slo is not None and trace.e2e_slo.tolist() == [5_000_000 * one for one in late]
    assert trace.hash_ids == [[9] if one else [] for one in late]


def burst(folder: Path, times: list[int]) -> Path:
    path = folder / "big.csv"
    path.write_text(BURST + "".join(f"{t},ChatGPT,{i + 1},5,6,Conversation log\n" for i, t in enumerate(times)))
    return path


def read_rows(path: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[Trace, int]:
    """The trace, and how many bytes were read in blocks."""
    seen = 0
    blocks = source.Source.blocks

    def counted(self: source.Source) -> Iterator[bytes]:
        nonlocal seen
        for block in blocks(self):
            seen += len(block)
            yield block

    monkeypatch.setattr(source.Source, "blocks", counted)
    return read_trace(path, **options), seen  # type: ignore[arg-type]


def test_no_more_is_read_than_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = burst(tmp_path, list(range(60_000)))
    size = path.stat().st_size
    whole = read_trace(path)
    trace, seen = read_rows(path, monkeypatch, num_requests=100)
    assert seen < size / 8
    assert trace.digest() == whole.head(100).digest()
    assert trace.reading is not None
    assert "what follows is in order at 64 places that were looked at, and was not read" in trace.reading.notes[0]
    trace, seen = read_rows(path, monkeypatch, start_s=20_000, duration_s=50.5)
    assert seen < size
    assert trace.digest() == whole.window(20_000, 50.5).digest()
    _, seen = read_rows(path, monkeypatch, num_requests=59_999)
    assert seen == size


@pytest.mark.parametrize("back", [True, False])
def test_a_rest_that_is_not_in_order_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    times = [*range(1000, 40_000), *(range(500, 20_000) if back else range(60_000, 70_000))]
    path = burst(tmp_path, times)
    trace, seen = read_rows(path, monkeypatch, num_requests=100)
    assert (seen == path.stat().st_size) == back
    assert trace.prompt.tolist()[0] == (39_001 if back else 1)
    assert trace.digest() == read_trace(path).head(100).digest()


def test_json_lines_stop_early_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    row = '{"arrival_s": %d, "prompt_tokens": %d, "output_tokens": 2}\n'
    path.write_text("".join(row % (i, i + 1) for i in range(30_000)))
    trace, seen = read_rows(path, monkeypatch, num_requests=10)
    assert seen < path.stat().st_size / 4
    assert trace.prompt.tolist() == list(range(1, 11))
    path.write_text("".join(row % (i % 20_000, i + 1) for i in range(30_000)))
    trace, _ = read_rows(path, monkeypatch, num_requests=4)
    assert trace.prompt.tolist() == [1, 20_001, 2, 20_002]


def test_a_column_of_columnar_files(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    times = pa.array([1_700_000_000_000 + 250 * i for i in range(10)]).cast(pa.timestamp("ms"))
    columns = {
        "timestamp": times,
        "input_tokens": pa.array(range(1, 11), pa.int32()),
        "output_tokens": pa.array([float(i + 2) for i in range(10)]),
        "client": pa.array(["a", None] * 5).dictionary_encode(),
        "hash_ids": pa.array([["0a"], ["ff"]] * 5),
        "priority": pa.array([None, 4] * 5, pa.int8()),
    }
    table = pa.table(columns)
    parquet.write_table(table, tmp_path / "file.parquet")
    with ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("file.parquet", "file.arrow"):
        trace = read_trace(tmp_path / name)
        assert trace.name == "file"
        assert trace.arrival.tolist() == [i * NS // 4 for i in range(10)]
        assert trace.output.tolist() == list(range(2, 12))
        assert trace.client == ["a", ""] * 5
        assert trace.hash_ids == [[10], [255]] * 5
        assert trace.priority is not None and trace.priority.tolist() == [0, 4] * 5
        assert read_trace(tmp_path / name, num_requests=3).prompt.tolist() == [1, 2, 3]


def test_the_window_of_a_whole_trace_copies_nothing(tmp_path: Path) -> None:
    trace = read_trace(burst(tmp_path, list(range(100))))
    assert trace.window() is trace


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["int64", "float64", "timestamp", "dictionary"])
def test_a_columnar_file_whose_rest_is_out_of_order_is_read_whole(tmp_path: Path, kind: str, ordered: bool) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    times = np.arange(200_000)
    times = times if ordered else np.roll(times, 100_000)
    column = {
        "int64": pa.array(times),
        "float64": pa.array(times.astype(float)),
        "timestamp": pa.array(times, pa.timestamp("s")),
        "dictionary": pa.array(times.astype(str)).dictionary_encode(),
    }[kind]
    parquet.write_table(pa.table({"arrival": column, "in": times % 900 + 1, "out": times % 9 + 1}), tmp_path / "file")
    trace = read_trace(tmp_path / "file", num_requests=3)
    assert trace.reading is not None
    told = " ".join(trace.reading.notes)
    if kind == "dictionary":
        assert "what follows was not looked at" in told
    else:
        assert trace.prompt.tolist() == [1, 2, 3]
        assert ("what follows is in order, and was not read" if ordered else "sorted by arrival: 100,000") in told


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["gzip", "utf-16", "gzip of lines"])
def test_a_packed_file_whose_rest_is_out_of_order_is_read_whole(tmp_path: Path, kind: str, ordered: bool) -> None:
    times = list(range(100_000))
    times = times if ordered else times[50_000:] + times[:50_000]
    if kind == "gzip of lines":
        text = "".join(f'{{"arrival_s": {t}, "in": {t % 900 + 1}, "out": 3}}\n' for t in times)
    else:
        text = "arrival_s,in,out\n" + "".join(f"{t},{t % 900 + 1},3\n" for t in times)
    path = tmp_path / "file"
    path.write_bytes(text.encode("utf-16") if kind == "utf-16" else gzip.compress(text.encode(), 1))
    trace = read_trace(path, num_requests=3)
    assert trace.prompt.tolist() == [1, 2, 3]
    assert trace.reading is not None
    told = " ".join(trace.reading.notes)
    assert ("is in order at the places that were looked at" if ordered else "sorted by arrival: 50,000") in told
