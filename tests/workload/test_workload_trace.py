"""Trace: exact integers, and operations that compose."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.workload import Trace, TraceError

NS = 10**9


def trace_of(arrivals: list[int], **columns: object) -> Trace:
    n = len(arrivals)
    basic = {"prompt": np.arange(1, n + 1), "output": np.arange(n, 0, -1)}
    return Trace("t", "test", np.array(arrivals), **{**basic, **columns})  # type: ignore[arg-type]


@st.composite
def traces(draw: st.DrawFn, least: int = 1) -> Trace:
    gaps = draw(st.lists(st.integers(0, 5 * NS), min_size=least - 1, max_size=30))
    return trace_of(np.cumsum([0, *gaps]).tolist(), client=[f"c{i}" for i in range(len(gaps) + 1)])


def test_what_cannot_be_a_trace_is_refused() -> None:
    with pytest.raises(TraceError, match="no requests"):
        trace_of([])
    with pytest.raises(TraceError, match="start at 0"):
        trace_of([1, 2])
    with pytest.raises(TraceError, match="never decrease"):
        trace_of([0, 2, 1])
    with pytest.raises(TraceError, match="at least one prompt token"):
        trace_of([0, 1], prompt=np.array([1, 0]))
    with pytest.raises(TraceError, match="column client has 1 rows"):
        trace_of([0, 1], client=["a"])
    with pytest.raises(TraceError, match="integers"):
        trace_of([0, 1], output=np.array([1.5, 2.0]))


@given(traces(least=2), st.floats(1e-3, 1e6))
def test_with_rate_keeps_order_and_reaches_the_rate_to_a_nanosecond(trace: Trace, rate: float) -> None:
    if trace.span == 0:
        with pytest.raises(TraceError, match="no gaps to stretch"):
            trace.with_rate(rate)
        return
    stretched = trace.with_rate(rate)
    assert stretched.arrival.dtype == np.int64
    assert stretched.span == round((len(trace) - 1) * NS / Fraction(rate))
    exact = [Fraction(a) * stretched.span / trace.span for a in trace.arrival.tolist()]
    assert all(0 <= e - a < 1 for a, e in zip(stretched.arrival.tolist(), exact, strict=True))
    assert stretched.prompt is trace.prompt


def test_with_rate_survives_products_beyond_64_bits() -> None:
    day = 86_400 * NS
    assert trace_of([0, day, 14 * day]).with_rate(2 / (28 * 86_400)).arrival.tolist() == [0, 2 * day, 28 * day]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e-300])
def test_impossible_rates(rate: float) -> None:
    with pytest.raises(TraceError):
        trace_of([0, NS]).with_rate(rate)


def test_window_and_head_rebase_and_compose() -> None:
    trace = trace_of([0, NS, 2 * NS, 2 * NS, 3 * NS], client=list("abcde"))
    cut = trace.window(1.0, 2.0)
    assert cut.arrival.tolist() == [0, NS, NS]
    assert cut.client == ["b", "c", "d"]
    assert cut.head(2).prompt.tolist() == [2, 3]
    assert cut.window(1.0).client == ["c", "d"]
    with pytest.raises(TraceError, match="no request"):
        trace.window(1.5, 0.25)
    with pytest.raises(TraceError, match="start >= 0"):
        trace.window(-1.0)


@given(traces(), st.integers(1, 40))
def test_head_is_a_prefix(trace: Trace, n: int) -> None:
    head = trace.head(n)
    assert len(head) == min(n, len(trace))
    assert head.arrival.tolist() == trace.arrival[:n].tolist()


@given(traces(), st.integers(1, 2**31))
def test_repaired_permutes_rows_under_the_same_arrivals(trace: Trace, seed: int) -> None:
    other = trace.repaired(seed)
    assert other.arrival.tolist() == trace.arrival.tolist()
    rows = list(zip(other.prompt.tolist(), other.output.tolist(), other.client or [], strict=True))
    assert sorted(rows) == sorted(zip(trace.prompt.tolist(), trace.output.tolist(), trace.client or [], strict=True))
    assert other.digest() == trace.repaired(seed).digest()
    assert trace.repaired(0) is trace


def test_seeds_differ() -> None:
    trace = trace_of(list(range(50)))
    assert len({trace.repaired(seed).digest() for seed in range(5)}) == 5


@given(traces(), st.integers(1, 100))
def test_tiled_repeats_rows_at_the_same_mean_gap(trace: Trace, n: int) -> None:
    tiled = trace.tiled(n)
    size = len(trace)
    assert len(tiled) == n
    assert tiled.prompt.tolist() == [trace.prompt[i % size] for i in range(n)]
    assert (np.diff(tiled.arrival) >= 0).all()
    if n > size:
        gap = round(Fraction(trace.span, size - 1)) if size > 1 else NS
        assert tiled.arrival[size] == trace.span + gap


def test_digest_sees_every_column_and_nothing_else() -> None:
    base = trace_of([0, 1])
    assert base.digest() == Trace("other", "elsewhere", base.arrival, base.prompt, base.output).digest()
    variants = [
        trace_of([0, 2]),
        trace_of([0, 1], prompt=np.array([2, 1])),
        trace_of([0, 1], output=np.array([1, 2])),
        trace_of([0, 1], client=["a", "b"]),
        trace_of([0, 1], program=["a", "b"]),
        trace_of([0, 1], priority=np.array([0, 1])),
        trace_of([0, 1], e2e_slo=np.array([0, 1])),
        trace_of([0, 1], ttft_slo=np.array([0, 1])),
        trace_of([0, 1], hash_ids=[[1], [2]]),
        trace_of([0, 1], hash_ids=[[1], [2]], block_size=16),
    ]
    assert len({trace.digest() for trace in [base, *variants]}) == len(variants) + 1


def test_a_trace_crosses_process_borders() -> None:
    trace = trace_of([0, 5], client=["a", "b"])
    assert pickle.loads(pickle.dumps(trace)).digest() == trace.digest()
