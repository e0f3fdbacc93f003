"""write_trace: ours comes back bit for bit, Mooncake's as its readers need it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.workload import Trace, TraceError, read_trace, write_trace


@st.composite
def waiting(draw: st.DrawFn, n: int) -> dict[str, object]:
    """Columns of requests that wait for one another."""
    names = [draw(st.sampled_from("abc")) for _ in range(n)]
    after: list[tuple[int, ...]] = []
    for row, name in enumerate(names):
        kin = [other for other in range(row) if names[other] == name]
        after.append(tuple(draw(st.lists(st.sampled_from(kin), max_size=3, unique=True))) if kin else ())
    think = np.array([draw(st.integers(0, 10**12)) if before else 0 for before in after], np.int64)
    return {"after": after, "think": think, "program": names}


@st.composite
def traces(draw: st.DrawFn, waits: bool = False) -> Trace:
    n = draw(st.integers(1, 8))

    def some(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)), np.int64)

    def perhaps(low: int, high: int) -> object:
        return some(low, high) if draw(st.booleans()) else None

    gaps = some(0, 10**12)
    names = st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N"]), max_size=4), min_size=n, max_size=n)
    prompt, size = some(1, 2000), draw(st.sampled_from([16, 512]))
    ids = [list(range(-(-int(p) // size))) for p in prompt] if draw(st.booleans()) else None
    columns: dict[str, object] = {"program": draw(names) if draw(st.booleans()) else None}
    if waits:
        columns |= draw(waiting(n))
    return Trace(
        "t",
        "s",
        np.cumsum(gaps) - gaps[0],
        prompt,
        some(1, 10**7),
        client=draw(names) if draw(st.booleans()) else None,
        tool=draw(names) if draw(st.booleans()) else None,
        scope=draw(names) if draw(st.booleans()) else None,
        priority=perhaps(-5, 5),  # type: ignore[arg-type]
        ttft_slo=perhaps(0, 10**10),  # type: ignore[arg-type]
        tpot_slo=perhaps(0, 10**10),  # type: ignore[arg-type]
        e2e_slo=perhaps(0, 10**10),  # type: ignore[arg-type]
        max_tokens=perhaps(1, 10**7),  # type: ignore[arg-type]
        guess=perhaps(1, 10**7),  # type: ignore[arg-type]
        hash_ids=ids,
        block_size=size,
        **columns,  # type: ignore[arg-type]
    )


@given(traces() | traces(waits=True), st.sampled_from(["t.jsonl", "t.jsonl.gz"]))
def test_ours_comes_back_with_the_same_digest(trace: Trace, name: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        write_trace(trace, path)
        back = read_trace(path)
    for column in ("priority", "ttft_slo", "max_tokens", "guess"):
        given_, found = getattr(trace, column), getattr(back, column)
        assert (given_ is None) == (found is None)
        assert given_ is None or given_.tolist() == found.tolist()
    assert back.digest() == trace.digest()


@given(traces(waits=True))
def test_mooncake_sessions_come_back_where_no_program_forks(trace: Trace) -> None:
    assert trace.after is not None and trace.program is not None and trace.think is not None
    last: dict[str, int] = {}
    lines = True
    for row, (name, before) in enumerate(zip(trace.program, trace.after, strict=True)):
        lines &= before == ((last[name],) if name in last else ())
        last[name] = row
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        if not lines:
            with pytest.raises(TraceError, match="no single line of turns"):
                write_trace(trace, path, "mooncake")
            assert not path.exists()
            return
        write_trace(trace, path, "mooncake")
        back = read_trace(path)
    assert back.program is not None
    rows = [sorted(zip(one.program or (), one.prompt.tolist(), strict=True)) for one in (back, trace)]
    assert rows[0] == rows[1]
    if back.after is None or back.think is None:
        assert not any(trace.after)
        return
    assert sum(map(bool, back.after)) == sum(map(bool, trace.after))
    assert np.abs(np.sort(back.think) - np.sort(trace.think)).max() <= 500_000


@given(traces())
def test_mooncake_comes_back_to_the_millisecond(trace: Trace) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        write_trace(trace, path, "mooncake")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        back = read_trace(path, time_unit="ms")
    assert [set(row) for row in rows] == [{"timestamp", "input_length", "output_length", "hash_ids"}] * len(trace)
    assert np.abs(back.arrival - trace.arrival).max() <= 1_000_000
    assert back.prompt.tolist() == trace.prompt.tolist()
    assert back.output.tolist() == trace.output.tolist()
    sizes: dict[int, set[int]] = {}
    for row in rows:
        assert len(row["hash_ids"]) == -(-row["input_length"] // trace.block_size)
        for k, block in enumerate(row["hash_ids"]):
            sizes.setdefault(block, set()).add(min(trace.block_size, row["input_length"] - k * trace.block_size))
    assert all(len(tokens) == 1 for tokens in sizes.values())


def test_only_clashing_partial_blocks_lose_their_ids(tmp_path: Path) -> None:
    lengths = np.array([1024, 600, 600, 100])
    ids = [[0, 1], [0, 1], [0, 2], [3]]
    trace = Trace("t", "s", np.arange(4), lengths, lengths, hash_ids=ids)
    write_trace(trace, tmp_path / "m", "mooncake")
    back = [json.loads(line)["hash_ids"] for line in (tmp_path / "m").read_text().splitlines()]
    assert back == [[0, 1], [0, 4], [0, 2], [3]]


def test_errors_are_sentences(tmp_path: Path) -> None:
    trace = Trace("t", "s", np.array([0]), np.array([1]), np.array([1]))
    with pytest.raises(TraceError, match="use one of ours, mooncake"):
        write_trace(trace, tmp_path / "t", "parquet")
    with pytest.raises(TraceError, match="cannot be written"):
        write_trace(trace, tmp_path / "absent" / "t")


def test_a_row_without_a_limit_or_a_guess_stays_without(tmp_path: Path) -> None:
    two = np.array([1, 1])
    trace = Trace("t", "s", np.array([0, 1]), two, two, max_tokens=np.array([0, 4]), guess=np.array([3, 0]))
    write_trace(trace, tmp_path / "t.jsonl")
    back = read_trace(tmp_path / "t.jsonl")
    assert back.max_tokens is not None and back.max_tokens.tolist() == [0, 4]
    assert back.guess is not None and back.guess.tolist() == [3, 0]
