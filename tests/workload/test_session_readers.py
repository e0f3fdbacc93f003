"""Files of sessions: which request waits for which, how long, and whose block ids are the same."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.workload import Trace, TraceError, describe, read_trace, write_trace
from fastserve.workload.block_ids import BlockIds
from fastserve.workload.content import content
from tests.workload.case_files import CASES, read, told

NS = 10**9


def rows(trace: Trace) -> list[tuple[str, float, tuple[int, ...], float]]:
    """(program, arrival in s, after, think in s)"""
    assert trace.program is not None and trace.after is not None and trace.think is not None
    times = [(trace.arrival / NS).tolist(), trace.after, (trace.think / NS).tolist()]
    return list(zip(trace.program, *times, strict=True))  # type: ignore[arg-type]


def written(path: Path, lines: list[object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# -- WEKA --------------------------------------------------------------------------------------------------------------


def test_conversations_fork_and_join() -> None:
    trace = read("weka_2conversations_20requests.jsonl")
    assert len(trace) == 20 and trace.block_size == 64
    one = [row for row in range(20) if trace.program is not None and trace.program[row] == "trace_0"]
    assert trace.prompt[one].tolist() == [640, 1280, 1920, 2560, 3200, 640, 3840, 4480, 5120, 5760]
    place = {row: at for at, row in enumerate(one)}
    assert trace.after is not None and trace.think is not None and trace.tool is not None
    after = [tuple(place[other] for other in trace.after[row]) for row in one]
    assert after == [(), (0,), (1,), (2,), (3,), (4,), (4,), (6, 5), (7,), (8,)]  # 5: the subagent; 7 waits for it
    assert trace.think[one].tolist() == [0, *[1_500_000_000] * 4, 0, *[1_500_000_000] * 4]
    assert [trace.tool[row] for row in one] == [*["tool_use"] * 4, "explore", *["tool_use"] * 5]
    assert (trace.arrival[one] / NS).tolist() == [0, 4, 8, 12, 16, 18.2, 20, 24, 28, 32]
    assert "all begin at once" in told(trace)


def test_local_ids_of_two_conversations_never_meet() -> None:
    trace = read("weka_2conversations_20requests.jsonl")
    assert trace.scope == trace.program
    found = content(trace, 64)
    assert found is not None and found.distinct == 180
    assert describe(trace).block_ids == 180


def weka(name: str, scope: str = "local", requests: list[dict[str, object]] | None = None) -> dict[str, object]:
    asks = requests or [
        {"t": 10.0 * i, "type": "n", "in": 128 * (i + 1), "out": 5, "hash_ids": list(range(2 * i + 2)), "api_time": 2.5,
         "think_time": 7.5, "new": {"unknown": 1}}
        for i in range(3)
    ]  # fmt: skip
    return {"id": name, "models": ["m"], "block_size": 64, "hash_id_scope": scope, "requests": asks, "more": 1}


@pytest.mark.parametrize("kind", ["lines", "array", "pretty", "gzip", "folder", "parquet"])
def test_any_way_of_writing_conversations(tmp_path: Path, kind: str) -> None:
    two = [weka("a"), weka("b")]
    path = tmp_path / "made"
    if kind == "lines":
        written(path, list(two))
    elif kind == "array":
        path.write_text(json.dumps(two))
    elif kind == "pretty":
        path.write_text("\n".join(json.dumps(one, indent=1) for one in two))
    elif kind == "gzip":
        path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in two).encode()))
    elif kind == "folder":
        path.mkdir()
        (path / "README.md").write_text("notes")
        (path / ".hidden").write_text("x")
        written(path / "1.json", [two[0]])
        (path / "2.json.gz").write_bytes(gzip.compress(json.dumps(two[1], indent=2).encode()))
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(two), path)
    trace = read_trace(path)
    assert sorted(rows(trace)) == sorted(
        (name, 10.0 * i, (2 * i - 2 + at,) if i else (), 7.5 if i else 0.0)
        for at, name in enumerate("ab")
        for i in range(3)
    )
    assert trace.hash_ids is not None and trace.hash_ids[-1] == list(range(6))
    assert trace.scope is not None and set(trace.scope) == {"a", "b"}


def test_global_ids_meet(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path / "x", [weka("a", "global"), weka("b", "global")]))
    found = content(trace, 64)
    assert found is not None and found.distinct == 6


def test_parallel_requests_nested_subagents_and_times_within(tmp_path: Path) -> None:
    def ask(t: float, took: float, tokens: int, **more: object) -> dict[str, object]:
        return {"t": t, "type": "n", "in": tokens, "out": 1, "hash_ids": [], "api_time": took, **more}

    inner = {"t": 2.5, "type": "subagent", "duration_ms": 1000, "requests": [ask(2.6, 0.5, 30)]}
    outer = {"t": 1.5, "type": "subagent", "duration_ms": 6000, "requests": [ask(0.25, 0.5, 20), inner,
             ask(5.5, 1.0, 21)]}  # fmt: skip
    asks = [
        ask(0.0, 1.5, 10),
        outer,
        ask(2.25, 3.0, 11),  # goes on while the subagent runs
        ask(3.25, 1.0, 12),  # beside it
        ask(9.0, 1.0, 13, think_time=4.0),  # waits for all three
        ask(11.0, 1.0, 0),
        {**ask(12.0, 1.0, 14), "out": 0},
    ]
    trace = read_trace(written(tmp_path / "x", [weka("a", requests=asks)]))
    by_tokens = {tokens: row for row, tokens in enumerate(trace.prompt.tolist())}
    assert trace.after is not None and trace.think is not None
    waits = {tokens: sorted(trace.prompt[list(trace.after[row])].tolist()) for tokens, row in by_tokens.items()}
    assert waits == {10: [], 20: [10], 30: [20], 21: [20, 30], 11: [10], 12: [10], 13: [11, 12, 21], 14: [13]}
    think = {tokens: int(trace.think[row]) / NS for tokens, row in by_tokens.items()}
    assert think == {10: 0, 20: 0.25, 30: 0.35, 21: 2.4, 11: 0.75, 12: 1.75, 13: 2.5, 14: 2.0}
    assert "1 requests without input tokens are left out" in told(trace)
    assert "1 requests without output tokens" in told(trace)


def test_two_conversations_of_one_name_stay_apart(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path / "x", [weka("a"), weka("a")]))
    assert trace.program is not None and set(trace.program) == {"a", "a#2"}
    found = content(trace, 64)
    assert found is not None and found.distinct == 12


def test_a_bad_request_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    written(tmp_path / "f" / "1.jsonl", [weka("a")])
    written(tmp_path / "f" / "2.jsonl", [weka("b"), weka("c", requests=[{"t": 0, "in": -3, "out": 1}])])
    with pytest.raises(TraceError, match=r"2\.jsonl:2: prompt tokens: -3 is negative"):
        read_trace(tmp_path / "f")
    (tmp_path / "f" / "2.jsonl").unlink()
    (tmp_path / "f" / "3.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TraceError, match=r"3\.csv: this file holds neither conversations"):
        read_trace(tmp_path / "f")
    (tmp_path / "g").mkdir()
    with pytest.raises(TraceError, match="no trace in this folder"):
        read_trace(tmp_path / "g")


def test_requests_of_one_conversation_without_the_last_block() -> None:
    trace = read("weka_flattened_hash_ids_without_partial_block.jsonl")
    assert trace.block_size == 64 and trace.hash_ids is not None and len(trace.hash_ids[-1]) == 925 // 64
    assert rows(trace)[1] == ("weka_flattened_hash_ids_without_partial_block", 3.5, (0,), 1.0)
    assert [len(before) for before in trace.after or ()] == [0] + [1] * 19
    assert describe(read("weka_one_conversation_pretty_printed.json")).programs == 1


# -- rounds ------------------------------------------------------------------------------------------------------------


def test_rounds_of_tracelab() -> None:
    trace = read("tracelab_20rounds.jsonl")
    assert describe(trace).programs == 4 and set(trace.program or ()) == {f"claude:s{i}" for i in range(4)}
    assert trace.client == ["user_01"] * 20 and trace.tool == ["bash"] * 20
    assert trace.think is not None and set(trace.think.tolist()) == {0, 200_000_000}
    assert sum(not before for before in trace.after or ()) == 4
    assert trace.hash_ids is not None and trace.after is not None
    prefixes = [json.loads(line) for line in (CASES / "tracelab_20rounds.jsonl").read_text().splitlines()]
    by_total = {row["input_tokens_total"]: row["prefix_tokens"] for row in prefixes}
    for row, before in enumerate(trace.after):
        if before:
            mine, theirs = trace.hash_ids[row], trace.hash_ids[before[0]]
            repeated = min(by_total[int(trace.prompt[row])], int(trace.prompt[before[0]])) // 64
            assert mine[:repeated] == theirs[:repeated]
            assert not set(mine[repeated:]) & set(theirs)


def test_rounds_exported_for_simulators() -> None:
    trace = read("tracelab_replay_csv.csv")
    assert describe(trace).programs == 4 and trace.client is None
    assert rows(trace)[:4] == [
        ("0", 0.0, (), 0.0), ("0", 0.15, (0,), 0.15), ("0", 0.3, (1,), 0.15), ("1", 0.3, (), 0.0)
    ]  # fmt: skip
    assert trace.prompt.tolist()[:3] == [900, 960 + 150, 1170 + 90]
    found = content(trace, 64)
    assert found is not None and 0.5 < found.hit_rate(trace) < 0.6


def test_first_rounds_share_the_stream_of_their_project(tmp_path: Path) -> None:
    def row(session: str, project: str, prefix: int) -> dict[str, object]:
        return {"session_id": session, "round_index": 0, "prefix_tokens": prefix, "newly_append_tokens": 64,
                "output_tokens": 3, "project": project, "tools": None, "timing_events": None}  # fmt: skip

    trace = read_trace(written(tmp_path / "x", [row("a", "p", 640), row("b", "p", 320), row("c", "q", 640)]))
    assert trace.hash_ids is not None
    a, b, c = trace.hash_ids
    assert a[:5] == b[:5] and not set(a) & set(c) and not set(a[10:]) & set(b)


# -- flat tables -------------------------------------------------------------------------------------------------------


def test_mooncake_sessions_with_delay() -> None:
    trace = read("mooncake_sessions_with_delay.jsonl")
    assert rows(trace)[:5] == [
        ("s0", 0.0, (), 0.0), ("s0", 0.5, (0,), 0.5), ("s0", 1.0, (1,), 0.5), ("s1", 1.0, (), 0.0),
        ("s0", 1.5, (2,), 0.5),
    ]  # fmt: skip
    assert describe(trace).programs == 5


def test_bailian(tmp_path: Path) -> None:
    def chat(name: int, parent: int, at: float, turn: int, ids: list[int]) -> dict[str, object]:
        return {"chat_id": name, "parent_chat_id": parent, "timestamp": at, "input_length": 16 * len(ids) - 3,
                "output_length": 9, "type": "text", "turn": turn, "hash_ids": ids}  # fmt: skip

    chats = [
        chat(159, -1, 0.5, 1, [1, 2]), chat(160, -1, 1.0, 1, [1, 3]), chat(161, 159, 61.25, 2, [1, 2, 4]),
        chat(162, 7, 70.0, 3, [9]), chat(163, 159, 80.0, 2, [1, 2, 5]),
    ]  # fmt: skip
    trace = read_trace(written(tmp_path / "x", list(chats)))
    assert trace.block_size == 16
    assert rows(trace) == [
        ("159", 0.0, (), 0.0), ("160", 0.5, (), 0.0), ("159", 60.75, (0,), 60.75), ("162", 69.5, (), 0.0),
        ("159", 79.5, (0,), 79.5),
    ]  # fmt: skip
    assert "1 requests name one to wait for that is not in the file" in told(trace)
    assert "the time that the answer before took is in them" in told(trace)
    plain = read_trace(tmp_path / "x", columns="after=")
    assert plain.after is None and plain.arrival.tolist() == trace.arrival.tolist()


def test_baseten_sessions_by_their_intervals(tmp_path: Path) -> None:
    assert describe(read("baseten_20rows.parquet")).programs == 5

    def call(at: int, took: float, ids: list[int], session: str = "A") -> dict[str, object]:
        return {"timestamp_start_unix_ms": 1_752_000_000_000 + at, "input_tokens": 64 * len(ids), "output_tokens": 5,
                "total_hashes": ids, "provided_session_id": session, "poor_man_session_id": 1, "duration_e2e_ms": took,
                "block_size": 64, "prompt": ""}  # fmt: skip

    calls = [call(0, 800, [1]), call(3000, 700.5, [1, 2]), call(3200, 100, [1, 3]), call(6000, 1, [1, 2, 4], "A"),
             call(7000, 1, [5], "B")]  # fmt: skip
    trace = read_trace(written(tmp_path / "x", list(calls)))
    assert trace.hash_ids == [[1], [1, 2], [1, 3], [1, 2, 4], [5]] and trace.block_size == 64
    assert rows(trace) == [
        ("A", 0.0, (), 0.0), ("A", 3.0, (0,), 2.2), ("A", 3.2, (0,), 2.4), ("A", 6.0, (2, 1), 2.2995),
        ("B", 7.0, (), 0.0),
    ]  # fmt: skip


def test_a_plain_table_with_a_parent_or_a_think_time(tmp_path: Path) -> None:
    want = [("a", 0.0, (), 0.0), ("b", 1.0, (), 0.0), ("a", 2.0, (0,), 2.0), ("a", 3.5, (0, 2), 1.5)]
    csv = tmp_path / "x.csv"
    csv.write_text(
        "arrival_s,program,after,think_s,prompt_tokens,output_tokens\n"
        "0,a,,,10,1\n1,b,,,10,1\n,a,0,2,10,1\n,a,0;2,1.5,10,1\n"
    )
    assert rows(read_trace(csv)) == want
    csv.write_text(
        "request_id,parent,delay_ms,input_tokens,output_tokens,arrival_s\nq,-1,,10,1,0\nr,,,10,1,1\n"
        's,q,2000,10,1,\nt,"q,s",1500,10,1,\n'
    )
    named = read_trace(csv)
    assert [(*row[1:],) for row in rows(named)] == [(*row[1:],) for row in want]
    assert named.program == ["q", "r", "q", "q"]
    csv.write_text("program,think,prompt,output\na,,10,1\na,2,10,1\nb,,10,1\nb,1.25,10,1\n")
    assert rows(read_trace(csv)) == [("a", 0.0, (), 0.0), ("b", 0.0, (), 0.0), ("b", 1.25, (1,), 1.25),
                                     ("a", 2.0, (0,), 2.0)]  # fmt: skip
    import pyarrow as pa
    from pyarrow import parquet

    table = {"program": list("aba"), "t": [0.0, 1.0, 2.5], "think_ms": [None, None, 700], "isl": [9, 9, 9],
             "osl": [1, 1, 1]}  # fmt: skip
    parquet.write_table(pa.table(table), tmp_path / "x.parquet")
    assert rows(read_trace(tmp_path / "x.parquet")) == [("a", 0.0, (), 0.0), ("b", 1.0, (), 0.0), ("a", 2.5, (0,), 0.7)]


def test_what_cannot_be_waited_for(tmp_path: Path) -> None:
    csv = tmp_path / "x.csv"
    csv.write_text("id,parent,arrival_s,prompt,output\na,b,0,1,1\nb,a,1,1,1\n")
    with pytest.raises(TraceError, match=r"x\.csv: row 0 waits for itself, directly or through others"):
        read_trace(csv)
    csv.write_text("id,parent,arrival_s,think_s,prompt,output\na,,5,,1,1\nb,a,1,3,1,1\n")  # clocks of two hosts
    assert rows(read_trace(csv)) == [("a", 0.0, (), 0.0), ("a", 0.0, (0,), 3.0)]
    csv.write_text("program,think_s,prompt,output\n" + "a,1,1,1\n" * 30 + "a,-4,1,1\n")
    assert "think cannot be read" in told(read_trace(csv))


def test_a_dropped_row_leaves_the_numbers_of_the_others(tmp_path: Path) -> None:
    lines = [{"arrival_s": i, "program": "a", "after": [i - 1] if i else [], "prompt_tokens": 1, "output_tokens": 1}
             for i in range(40)]  # fmt: skip
    lines[20]["prompt_tokens"] = -1
    trace = read_trace(written(tmp_path / "x", list(lines)), lenient=True)
    assert [len(before) for before in trace.after or ()] == [0, *[1] * 19, 0, *[1] * 18]
    assert (trace.after or ())[21] == (20,)


def test_reading_a_file_of_sessions_in_parts_is_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve.workload.reader.source.HEAD", 300)
    monkeypatch.setattr("fastserve.workload.reader.source.FIRST", 400)
    monkeypatch.setattr("fastserve.workload.reader.source.LARGEST", 500)
    rng = random.Random(0)
    lines = []
    for i in range(200):
        parent = rng.randrange(-1, i)
        ids = [] if parent < 0 else list(lines[parent]["hash_ids"])  # type: ignore[index]
        ids = [*ids[: rng.randint(0, len(ids))], 1000 + i]
        lines.append({"chat_id": i, "parent_chat_id": parent, "timestamp": i * 1.5, "input_length": 16 * len(ids),
                      "output_length": 2, "hash_ids": ids})  # fmt: skip
    trace = read_trace(written(tmp_path / "x", list(lines)))
    assert trace.hash_ids == [line["hash_ids"] for line in lines]
    assert trace.after == [(line["parent_chat_id"],) if line["parent_chat_id"] >= 0 else () for line in lines]  # type: ignore[operator]
    assert read_trace(tmp_path / "x", num_requests=50).digest() == trace.head(50).digest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(-2, 50) | st.sampled_from(["", "x", "12", "-1", "a"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KEYS = ("t", "in", "out", "hash_ids", "think_time", "api_time", "type", "stop", "requests", "duration_ms")
REQUEST = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)) | st.fixed_dictionaries(
    {"in": st.integers(0, 200), "out": st.integers(0, 9), "t": st.integers(0, 9)},
    optional=dict.fromkeys(("hash_ids", "think_time", "api_time"), JSON),
)
CONVERSATION = st.fixed_dictionaries(
    {"requests": st.lists(REQUEST, max_size=4) | JSON, "block_size": JSON | st.just(64)},
    optional={"id": JSON, "hash_id_scope": JSON},
)
ROUND = st.fixed_dictionaries(
    {"session_id": JSON, "prefix_tokens": JSON, "newly_append_tokens": JSON, "output_tokens": JSON},
    optional=dict.fromkeys(("round_index", "timing_events", "tools", "input_tokens_total", "user"), JSON),
)
FLAT = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(1, 99), "output_tokens": st.integers(1, 9), "program": st.sampled_from("ab")},
    optional=dict.fromkeys(("id", "after", "think_s", "arrival_s", "tool", "turn", "hash_ids", "scope"), JSON),
)


@given(st.lists(CONVERSATION, max_size=4) | st.lists(ROUND, max_size=4) | st.lists(FLAT, max_size=5), st.booleans())
def test_any_sessions_are_a_trace_or_a_clear_error(rows: list[object], lenient: bool) -> None:
    with TemporaryDirectory() as folder:
        path = written(Path(folder) / "x", rows)
        try:
            trace = read_trace(path, lenient=lenient)
        except TraceError:
            return
        describe(trace)
        write_trace(trace, path)
        assert read_trace(path).digest() == trace.digest() or trace.after is None


def test_a_column_of_sessions_that_comes_late_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastserve.workload.reader.source.HEAD", 100)
    monkeypatch.setattr("fastserve.workload.reader.source.FIRST", 200)
    monkeypatch.setattr("fastserve.workload.reader.source.LARGEST", 200)
    first = [{"session_id": f"s{i}", "input_length": 9, "output_length": 2, "timestamp": 100 * i} for i in range(20)]
    path = written(tmp_path / "x", [*first, {"session_id": "s3", "input_length": 9, "output_length": 2, "delay": 5}])
    with pytest.raises(TraceError, match="column 'delay', by which requests wait for one another, comes late"):
        read_trace(path)
    moved = [first[0], {**first[1], "delay": None}, *first[2:]]
    path = written(tmp_path / "x", [*moved, {"session_id": "s3", "input_length": 9, "output_length": 2, "delay": 5}])
    assert sum(map(bool, read_trace(path).after or ())) == 1


def test_a_conversation_is_kept_once(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path / "x", [weka("a"), weka("b")]))
    assert isinstance(trace.hash_ids, BlockIds)
    assert sum(len(trace.hash_ids.fresh(row)) for row in range(6)) == 12
