"""Sessions: what comes when, told by what ended when."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.workload import Trace, TraceError
from fastserve.workload import programs as whole
from fastserve.workload.after import causal_order, earliest
from fastserve.workload.seeds import source_of
from fastserve.workload.session import Sessions, SessionSettings

NS = 10**9


def trace_of(after: list[tuple[int, ...]], think: list[float] | None = None, **columns: object) -> Trace:
    n = len(after)
    basic: dict[str, object] = {"arrival": np.arange(n) * NS, "prompt": np.full(n, 10), "output": np.full(n, 2)}
    times = None if think is None else np.array([round(t * NS) for t in think])
    return Trace("t", "test", after=after, think=times, **{**basic, **columns})  # type: ignore[arg-type]


TWO = [(), (0,), (), (1,), (2,)]  # programs a: 0 1 3, b: 2 4
NAMES = list("aabab")


def two(**columns: object) -> Trace:
    return trace_of(TWO, [0, 5, 0, 7, 11], program=NAMES, **columns)


def played(sessions: Sessions, service: int = NS, fails: frozenset[int] = frozenset()) -> dict[int, tuple[int, int]]:
    """row -> (arrival, end) with a server of unlimited width that takes `service` a request."""
    events = [(at, row) for row, at in sessions.begin()]
    heapq.heapify(events)
    ends: list[tuple[int, int]] = []
    found: dict[int, tuple[int, int]] = {}
    while events or ends:
        if events and (not ends or events[0] <= ends[0]):
            at, row = heapq.heappop(events)
            assert row not in found
            found[row] = at, at + service
            heapq.heappush(ends, (at + service, row))
            continue
        at, row = heapq.heappop(ends)
        for come, when in sessions.ended(row, at, row not in fails):
            assert when >= at
            heapq.heappush(events, (when, come))
    return found


# -- the columns -------------------------------------------------------------------------------------------------------


def test_rows_wait_for_earlier_rows_of_their_own_program() -> None:
    with pytest.raises(TraceError, match="row 1 waits for itself"):
        trace_of([(), (1,)])
    with pytest.raises(TraceError, match="row 0 waits for row 1, which comes later"):
        trace_of([(1,), ()])
    with pytest.raises(TraceError, match="row 1 waits for row 7"):
        trace_of([(), (7,)])
    with pytest.raises(TraceError, match="row 1 of program 'b' waits for row 0 of program 'a'"):
        trace_of([(), (0,)], program=["a", "b"])
    with pytest.raises(TraceError, match="below 0"):
        trace_of([(), (0,)], [0, -1])
    with pytest.raises(TraceError, match="need the column `after`"):
        Trace("t", "", np.array([0]), np.array([1]), np.array([1]), think=np.array([1]))
    with pytest.raises(TraceError, match="column after has 1 rows"):
        Trace("t", "", np.array([0, 1]), np.array([1, 1]), np.array([1, 1]), after=[()])


def test_programs_and_think_times_are_made_where_not_given() -> None:
    trace = trace_of([(), (), (0,), (1, 2), ()])
    assert trace.program == ["p0", "p0", "p0", "p0", "p1"]
    assert trace.think is not None and not trace.think.any()
    trace = replace(trace, program=["", "", "", "", "p0"], after=[(), (), (0,), (2,), ()])
    assert trace.program == ["p0'", "", "p0'", "p0'", "p0"]  # none is lost, and none is taken for another
    assert [row for row, _ in Sessions(trace, SessionSettings(sessions=9)).begin()] == [0, 1, 4]


def test_causal_order_and_earliest_arrivals() -> None:
    assert causal_order([5, 0, 3], [(), (0,), ()]) == [2, 0, 1]
    assert causal_order([0, 0, 0], [(2,), (), ()]) == [1, 2, 0]
    with pytest.raises(TraceError, match="row 1 waits for itself, directly or through others"):
        causal_order([0, 0, 0], [(), (2,), (1,)])
    times = earliest(np.array([0, 9, 4, 0]), [(), (0,), (), (1, 2)], np.array([0, 3, 0, 5]))
    assert times.tolist() == [0, 3, 4, 9]


def test_head_and_window_keep_sessions_valid() -> None:
    trace = two(tool=list("vwxyz"), scope=list("aabab"))
    assert trace.head(4).after == [(), (0,), (), (1,)]
    cut = trace.window(2.0)  # rows 2, 3, 4, of which 3 waits for what is not there
    assert cut.after == [(), (0,)] and cut.tool == ["x", "z"] and cut.program == ["b", "b"]
    assert cut.dropped == {"waiting for requests before the window": 1}
    with pytest.raises(TraceError, match="begin the window where a program begins"):
        trace.window(3.0)
    with pytest.raises(TraceError, match="row 1 waits for row 0"):
        trace.take(np.array([1, 2]))
    for broken in (lambda: trace.repaired(1), lambda: trace.tiled(9)):
        with pytest.raises(TraceError, match="whole programs"):
            broken()
    assert trace.with_rate(2.0).after == trace.after and trace.with_rate(2.0).think is trace.think


def test_the_digest_tells_sessions_apart() -> None:
    assert len({two().digest(), trace_of(TWO, program=NAMES).digest(), trace_of([()] * 5, program=NAMES).digest()}) == 3


# -- as recorded, closed, at a rate ------------------------------------------------------------------------------------


def test_as_recorded_roots_arrive_and_the_rest_follows() -> None:
    sessions = Sessions(two())
    assert [(program.name, program.rows) for program in sessions.programs] == [("a", [0, 1, 3]), ("b", [2, 4])]
    assert sessions.begin() == [(0, 0), (2, 2 * NS)]
    assert sessions.ended(0, 4 * NS) == [(1, 9 * NS)]
    assert not sessions.is_last(0)
    assert sessions.ended(1, 10 * NS) == [(3, 17 * NS)]
    assert sessions.is_last(3)
    assert sessions.ended(3, 18 * NS) == []
    assert sessions.is_last(3) and sessions.program_of(3).name == "a"
    with pytest.raises(ValueError, match="row 3 has ended already"):
        sessions.ended(3, 19 * NS)


def test_a_join_waits_for_the_last_and_a_fork_lets_all_come() -> None:
    sessions = Sessions(trace_of([(), (0,), (0,), (1, 2)], [0, 1, 2, 3]))
    sessions.begin()
    assert sessions.ended(0, 0) == [(1, NS), (2, 2 * NS)]
    assert sessions.ended(2, 5 * NS) == []
    assert sessions.ended(1, 7 * NS) == [(3, 10 * NS)]


def test_what_waits_for_a_failed_row_is_abandoned_and_only_that() -> None:
    sessions = Sessions(trace_of([(), (0,), (0,), (1, 2), (3,)]))
    sessions.begin()
    sessions.ended(0, 0)
    assert sessions.ended(1, 1, ok=False) == []
    assert sorted(sessions.abandoned) == [3, 4] and not sessions.is_last(1)
    assert sessions.ended(2, 2) == []
    assert sessions.is_last(2) and sorted(sessions.abandoned) == [3, 4]


def test_closed_loop_keeps_so_many_at_work() -> None:
    trace = trace_of([(), (0,), (), (), (3,)], [0, 1, 0, 0, 1], program=list("aabcc"))
    sessions = Sessions(trace, SessionSettings(sessions=2))
    assert sessions.begin() == [(0, 0), (2, 0)]
    assert sessions.ended(2, 3 * NS) == [(3, 3 * NS)]  # b has ended, c begins
    assert sessions.ended(0, 4 * NS, ok=False) == []  # a too, but nobody is left to begin
    assert sessions.abandoned == [1]
    assert sessions.ended(3, 5 * NS) == [(4, 6 * NS)]


def test_in_closed_loop_an_abandoned_program_makes_room() -> None:
    sessions = Sessions(two(), SessionSettings(sessions=1))
    assert sessions.begin() == [(0, 0)]
    assert sessions.ended(0, 2 * NS, ok=False) == [(2, 2 * NS)]
    assert sessions.abandoned == [1, 3]


def test_roots_of_a_program_keep_their_distances() -> None:
    plain = Trace("t", "", np.array([0, 2, 5, 9]) * NS, np.ones(4, int), np.ones(4, int), program=list("abab"))
    sessions = Sessions(plain, SessionSettings(sessions=1))
    assert sessions.begin() == [(0, 0), (2, 5 * NS)]
    sessions.ended(0, NS)
    assert sessions.ended(2, 6 * NS) == [(1, 6 * NS), (3, 13 * NS)]


def test_a_request_without_a_program_is_one() -> None:
    plain = Trace("t", "", np.array([0, 2]) * NS, np.ones(2, int), np.ones(2, int), program=["", ""])
    sessions = Sessions(plain, SessionSettings(sessions=1))
    assert [program.rows for program in sessions.programs] == [[0], [1]]
    assert sessions.begin() == [(0, 0)]
    assert sessions.ended(0, NS) == [(1, NS)]


def test_seeds_permute_programs_and_seed_0_is_the_order_of_the_trace() -> None:
    trace = trace_of([()] * 20, program=[f"p{i}" for i in range(20)])
    closed = SessionSettings(sessions=3)
    orders = [[program.name for program in Sessions(trace, closed, seed).programs] for seed in (0, 1, 1, 2)]
    assert orders[0] == trace.program and orders[1] == orders[2] != orders[3]
    assert orders[1] != orders[0] and sorted(orders[1]) == sorted(orders[0])
    assert [program.name for program in Sessions(trace, SessionSettings(), 1).programs] == trace.program


def test_a_program_rate_is_a_poisson_process_of_programs() -> None:
    trace = trace_of([()] * 2000, program=[f"p{i // 2}" for i in range(2000)], arrival=np.arange(2000) // 2 * NS)
    times = [Sessions(trace, SessionSettings(program_rate=0.5), seed).begin() for seed in (0, 0, 1)]
    assert times[0] == times[1] != times[2]
    begins = np.array([at for row, at in times[0]])[::2]
    assert begins[0] == 0 and (np.diff(begins) >= 0).all()
    gaps = np.diff(begins) / NS
    assert 1.8 < gaps.mean() < 2.2 and 0.9 < gaps.std() / gaps.mean() < 1.1


def test_think_times_are_scaled_then_cut() -> None:
    trace = trace_of([(), (0,), (0,)], [0, 1, 100])
    assert SessionSettings(think_scale=0.5, think_cap=30).think(trace) == [0, NS // 2, 30 * NS]
    assert SessionSettings(think_scale=0).think(trace) == [0, 0, 0]


def test_open_loop_replays_recorded_arrivals_whatever_was_answered() -> None:
    sessions = Sessions(two(), SessionSettings(open_loop=True))
    assert sessions.begin() == [(row, row * NS) for row in range(5)]
    assert sessions.ended(0, 1, ok=False) == [] and sessions.abandoned == []
    assert [sessions.is_last(row) for row in (1, 3)] == [False, False]
    sessions.ended(1, 2), sessions.ended(3, 3)
    assert sessions.is_last(3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sessions": 0}, "sessions=0 must be at least 1"),
        ({"program_rate": 0.0}, "program_rate=0.0 must be a number from 1e-9 to 1e9"),
        ({"think_scale": -1.0}, "think_scale=-1.0 must be a number from 0 to 1e9"),
        ({"think_scale": float("nan")}, "think_scale"),
        ({"program_rate": float("inf")}, "from 1e-9 to 1e9"),
        ({"think_cap": -1.0}, "think_cap"),
        ({"client_timeout": 0.0}, "client_timeout=0"),
        ({"sessions": 1, "program_rate": 1.0}, "not both"),
        ({"sessions": 1, "open_loop": True}, "leaves sessions no say"),
        ({"think_cap": 1.0, "open_loop": True}, "cannot be changed"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SessionSettings(**settings)  # type: ignore[arg-type]


@st.composite
def sessions_of(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 25))
    names = [f"p{draw(st.integers(0, 4))}" for _ in range(n)]
    after = []
    for row in range(n):
        kin = [other for other in range(row) if names[other] == names[row]]
        after.append(tuple(draw(st.lists(st.sampled_from(kin), max_size=2)) if kin else []))
    think = [draw(st.integers(0, 9)) if before else 0 for before in after]
    arrival = np.cumsum([0] + [draw(st.integers(0, 3)) for _ in range(n - 1)]) * NS
    ids = [[draw(st.integers(0, 9)) for _ in range(2)] for _ in range(n)]
    return trace_of(after, [float(t) for t in think], program=names, arrival=arrival, hash_ids=ids, block_size=5)


@given(sessions_of(), st.sampled_from([{}, {"sessions": 1}, {"sessions": 2}, {"program_rate": 0.3}]), st.integers(0, 2),
       st.sets(st.integers(0, 24), max_size=3))  # fmt: skip
def test_every_row_comes_once_after_its_think_time_or_is_abandoned(
    trace: Trace, settings: dict[str, float], seed: int, fails: set[int]
) -> None:
    sessions = Sessions(trace, SessionSettings(**settings), seed)  # type: ignore[arg-type]
    found = played(sessions, fails=frozenset(fails))
    assert sorted([*found, *sessions.abandoned]) == list(range(len(trace)))
    assert trace.after is not None and trace.think is not None
    for row, (arrival, _) in found.items():
        before = set(trace.after[row])
        assert not before & (fails | set(sessions.abandoned))
        if before:
            assert arrival == max(found[other][1] for other in before) + int(trace.think[row])
    for row in sessions.abandoned:
        assert set(trace.after[row]) & (fails | set(sessions.abandoned))
    if "sessions" in settings:
        first = [min(found[row][0] for row in program.rows if row in found) for program in sessions.programs]
        last = [max(found[row][1] for row in program.rows if row in found) for program in sessions.programs]
        for order, begin in enumerate(first):  # never more at once than asked for
            assert sum(first[i] <= begin < last[i] for i in range(order)) < settings["sessions"]


# -- whole programs ----------------------------------------------------------------------------------------------------


@given(sessions_of(), st.integers(1, 3), st.sampled_from(["blocks", "pairs"]))
def test_seeds_resample_whole_programs(trace: Trace, seed: int, how: str) -> None:
    source = source_of(trace, resample=how)
    assert source.trace(0) is trace
    again = source.trace(seed)
    assert again.digest() == source.trace(seed).digest()
    assert trace.program is not None and again.program is not None and trace.after is not None
    originals = {rows[0]: rows for rows in whole.groups(trace)}
    by_name = {trace.program[row]: rows for row, rows in originals.items()}
    assert len(whole.groups(again)) == len(originals)
    assert again.after is not None and again.think is not None and trace.think is not None
    for rows in whole.groups(again):
        old = by_name[again.program[rows[0]].split("#")[0]]
        assert again.think[rows].tolist() == trace.think[old].tolist()
        gaps, before = again.arrival[rows] - again.arrival[rows[0]], trace.arrival[old] - trace.arrival[old[0]]
        assert gaps.tolist() == before.tolist()
        place = dict(zip(old, rows, strict=True))
        assert [again.after[row] for row in rows] == [tuple(place[o] for o in trace.after[row]) for row in old]


def test_a_program_drawn_twice_shares_only_what_different_ones_share() -> None:
    trace = trace_of([(), (0,), ()], program=list("aab"), hash_ids=[[1, 2], [1, 2, 3], [1, 4]], block_size=4)
    twice = whole.put_together(trace, [0, 0], [0, NS])
    assert twice.program == ["a", "a", "a#2", "a#2"]
    assert twice.hash_ids is not None
    assert [ids[0] for ids in twice.hash_ids] == [1] * 4
    assert not set(twice.hash_ids[1][1:]) & set(twice.hash_ids[3][1:])
    assert twice.hash_ids[3][:2] == twice.hash_ids[2]


def test_windows_are_successive_programs() -> None:
    trace = trace_of([(), (0,), (), (2,), (), ()], program=list("aabbcd"))
    source = source_of(trace, resample="windows", seeds=2)
    assert [source.trace(seed).program for seed in (0, 1)] == [list("aabb"), list("cd")]
    assert source.samples(2) is None and "2 successive programs of 4" in source.words
