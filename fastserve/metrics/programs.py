"""Measures of programs (an agent's run, a conversation), from the records of the requests that they are made of.

A program is at work from its first arrival to its last end, its think times included. Who counts, as in a summary of
jobs: times are over completed programs and unfinished ones, which count with the time so far (a lower bound). A program
of which a request was refused, truncated or cancelled, or given up by its client, or broke off so that what follows it
never came, is `abandoned`, even while others of its requests go on: counted, and outside all times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.columns import Columns as Table
from fastserve.metrics.finish import GAVE_UP, is_outcome
from fastserve.metrics.intervals import Ratio, paired_ratio
from fastserve.metrics.saturation import Columns, Floats, covered, left_at, saturated
from fastserve.metrics.summary import Summary

PROGRAM_COLUMNS: dict[str, str] = {
    "program": "O",
    "first_arrival": "f8",  # s; all times are seconds, from the same origin as those of the records
    "end": "f8",  # s, of its last request; nan while more may come
    "finish": "O",  # completed, abandoned, unfinished
    "turns": "i8",  # requests that it is made of
    "completed": "i8",  # of these
    "abandoned": "i8",  # of these: never came, because one before them was not completed
    "time": "f8",  # s from the first arrival to the end; so far, if unfinished; nan if abandoned
    "service": "f8",  # s of it with a request in the system: the time without think times
    "alone": "f8",  # s that it takes on an empty machine that forgets nothing, think times included; nan if not known
    "slowdown": "f8",  # time / alone
    "stall_per_turn": "f8",  # s, mean over its completed requests: completion time beyond that of the same alone
    "first_turn_ttft": "f8",  # s to the first token of its first request, or until its client gave up; nan if neither
    "longest_ttft": "f8",
    "held_s": "f8",  # s held back, all its requests together
    "prompt_tokens": "i8",
    "output_tokens": "i8",
    "cached_tokens": "i8",
}
"""Column -> numpy kind; units beside it."""

SUMMARY = (
    "programs", "programs_completed", "programs_abandoned", "programs_unfinished", "abandoned_requests", "gave_up",
    "early_requests", "program_time_mean_s", "program_time_p50_s", "program_time_p95_s", "program_time_max_s",
    "program_service_mean_s", "program_slowdown_mean", "stall_per_turn_mean_s", "programs_per_hour",
    "programs_per_hour_whole", "program_window_s", "at_work_mean", "ttft_first_turn_p50_s", "ttft_first_turn_p99_s",
    "ttft_first_turn_max_s", "longest_wait_s",
)  # fmt: skip
"""What summarise_programs() finds; None in the summary of a run without sessions."""

COPY = re.compile(r"#\d+$")
"""What a program's name ends with that is there again, as workload.programs draws it."""


def table_of(
    columns: Columns,
    names: Sequence[str],
    members: Sequence[Sequence[int]],
    *,
    horizon_s: float,
    abandoned: Iterable[int] = (),
    alone: Sequence[float] | None = None,
    alone_turn: Sequence[float] | None = None,
) -> Table:
    """One row for each program that has begun, in the order of `names`.

    columns: records, by id. members: of each program the ids of its requests. abandoned: ids that never came. alone: s,
    by program; alone_turn: s, of each request by id. horizon_s: when observation ended.
    """
    place = {id: row for row, id in enumerate(columns["id"].tolist())}
    lost = set(abandoned)
    left = left_at(columns, horizon_s)
    jct, finish = columns["jct_from_arrival"], columns["finish"]
    done, open_ = is_outcome(finish, "completed"), is_outcome(finish, "unfinished")
    waits = np.where((np.isnan(columns["ttft"]) & open_) | (finish == GAVE_UP), jct, columns["ttft"])
    found: dict[str, list[Any]] = {name: [] for name in PROGRAM_COLUMNS}
    for number, (name, ids) in enumerate(zip(names, members, strict=True)):
        rows = np.array([place[id] for id in ids if id in place], np.intp)
        if not len(rows):
            continue
        begin = float(columns["arrival"][rows].min())
        ended = int(np.count_nonzero(done[rows]))
        gone = len(lost.intersection(ids))
        failed = gone > 0 or not (done[rows] | open_[rows]).all()
        broken = gone > 0 and gone + len(rows) == len(ids)  # no more will come of it than what came
        over = broken or gone + int(np.count_nonzero(~open_[rows])) == len(ids)
        last = float(np.where(open_, columns["arrival"] + jct, left)[rows].max()) if over else horizon_s
        word = "abandoned" if failed else "completed" if over else "unfinished"
        time = float("nan") if word == "abandoned" else last - begin
        usual = float("nan") if alone is None or alone[number] <= 0 else alone[number]
        stalls = (
            []
            if alone_turn is None
            else [float(jct[row]) - alone_turn[columns["id"][row]] for row in rows if done[row]]
        )
        first = place.get(ids[0])
        longest = waits[rows][~np.isnan(waits[rows])]
        row_of = {
            "program": name,
            "first_arrival": begin,
            "end": last if over else float("nan"),
            "finish": word,
            "turns": len(ids),
            "completed": ended,
            "abandoned": gone,
            "time": time,
            "service": float("nan") if word == "abandoned" else covered(columns["arrival"][rows], left[rows]),
            "alone": usual,
            "slowdown": time / usual,
            "stall_per_turn": float(np.mean(stalls)) if stalls else float("nan"),
            "first_turn_ttft": float("nan") if first is None else float(waits[first]),
            "longest_ttft": float(longest.max()) if len(longest) else float("nan"),
            "held_s": float(np.nansum(columns["held_s"][rows])),
            **{key: int(columns[key][rows].sum()) for key in ("prompt_tokens", "output_tokens", "cached_tokens")},
        }
        for key, value in row_of.items():
            found[key].append(value)
    return {name: np.array(found[name], dtype=kind) for name, kind in PROGRAM_COLUMNS.items()}


def window_at_work(table: Columns, most: int, horizon_s: float, warmup_s: float = 0.0) -> tuple[float, float]:
    """s: from when `most` programs are at work for the first time (and the warm-up is over) to when they last are; of
    fewer, as many as ever are.

    Before it the closed loop fills up, after it nobody takes the place of who has ended.
    """
    begin, end = table["first_arrival"], np.where(np.isnan(table["end"]), horizon_s, table["end"])
    if not len(begin):
        return 0.0, 0.0
    moments = np.unique(np.concatenate((begin, end)))
    present = np.searchsorted(np.sort(begin), moments, "right") - np.searchsorted(np.sort(end), moments, "right")
    full = np.flatnonzero(present >= min(most, int(present.max())))  # from one moment to the next
    first, last = float(moments[full[0]]), float(moments[min(full[-1] + 1, len(moments) - 1)])
    return min(max(first, float(moments[0]) + warmup_s), last), last


def summarise_programs(
    table: Columns,
    columns: Columns,
    members: Sequence[Sequence[int]],
    *,
    horizon_s: float,
    warmup_s: float = 0.0,
    window: tuple[float, float] | None = None,
    after: Sequence[Sequence[int]] | None = None,
) -> Summary:
    """Measures of programs, for the summary of the run. warmup_s: programs that begin this soon after the first one are
    left out of all but rates. window: s, of the rates; None: from the end of the warm-up to the last end. after: of an
    open loop, by id the ids of the requests that it repeats.

    programs_per_hour: completed requests of programs that were not abandoned, each 1 / turns of its program, that ended
    in the window. Over a whole run this is completed programs over its length (`programs_per_hour_whole`), and in part
    of one it does not hang on whether the last of few programs ended just before its end or just after.
    """
    start, stop = window or _whole(table, horizon_s, warmup_s)
    counts = (table["finish"] != "abandoned").tolist()
    weight = {
        id: 1 / len(ids) for ids, counted in zip(_begun(members, columns), counts, strict=True) if counted for id in ids
    }
    done = is_outcome(columns["finish"], "completed") & (columns["end"] > start) & (columns["end"] <= stop)
    turned = sum([weight.get(id, 0.0) for id in columns["id"][done].tolist()])
    spent = np.where(np.isnan(table["end"]), horizon_s, table["end"])
    present = np.clip(np.minimum(spent, stop) - np.maximum(table["first_arrival"], start), 0.0, None)
    length = stop - start
    first, last = _whole(table, horizon_s, warmup_s)
    whole, completed = last - first, int(np.count_nonzero((table["finish"] == "completed") & (table["end"] > first)))
    if warmup_s and len(table["end"]):
        measured = table["first_arrival"] >= table["first_arrival"].min() + warmup_s
        table = {name: values[measured] for name, values in table.items()}
    words = table["finish"]
    values = (
        len(words),
        *[int(np.count_nonzero(words == word)) for word in ("completed", "abandoned", "unfinished")],
        int(table["abandoned"].sum()),
        int(np.count_nonzero(columns["finish"] == GAVE_UP)),
        None if after is None else _early(columns, after),
        _mean(table["time"]),
        _percentile(table["time"], 50),
        _percentile(table["time"], 95),
        _percentile(table["time"], 100),
        _mean(table["service"]),
        _mean(table["slowdown"]),
        _mean(table["stall_per_turn"][words != "abandoned"]),
        turned / length * 3600 if length > 0 else None,
        completed / whole * 3600 if whole > 0 else None,
        length if length > 0 else None,
        float(present.sum()) / length if length > 0 else None,
        _percentile(table["first_turn_ttft"], 50),
        _percentile(table["first_turn_ttft"], 99),
        _percentile(table["first_turn_ttft"], 100),
        _percentile(table["longest_ttft"], 100),
    )
    return dict(zip(SUMMARY, values, strict=True))


def programs_saturated(table: Columns, horizon_s: float) -> bool | None:
    """Whether programs that begin by themselves pile up, as `saturated` says of jobs."""
    finish = np.where(table["finish"] == "unfinished", "unfinished", "stop").astype("O")
    jobs = {"arrival": table["first_arrival"], "end": table["end"], "finish": finish}
    return saturated(jobs, horizon_s=horizon_s)


def time_ratio(pairs: Iterable[tuple[Columns, Columns]]) -> Ratio | None:
    """Mean program time of the one over the mean of the other, with its interval over programs, paired by program.

    pairs: tables of the same programs under two policies, one pair for each seed. See paired_times().
    """
    return paired_times([(completed_times(one), completed_times(other)) for one, other in pairs])


def paired_times(pairs: Iterable[tuple[Mapping[str, float], Mapping[str, float]]]) -> Ratio | None:
    """The same of times by program. A program's are averaged over seeds and copies. None where a program was completed
    by one of the two alone.
    """
    times: dict[str, list[tuple[float, float]]] = {}  # of each program, by its name in the trace
    for mine, theirs in pairs:
        if mine.keys() != theirs.keys():
            return None
        for name, time in mine.items():
            times.setdefault(COPY.sub("", name), []).append((time, theirs[name]))
    both = [np.mean(found, axis=0) for found in times.values()]
    if not both or not (np.array(both) > 0).all():
        return None
    return paired_ratio([float(pair[0]) for pair in both], [float(pair[1]) for pair in both])


def completed_times(table: Columns) -> dict[str, float]:
    """Program -> its time, s; programs without a name by when they are in the table."""
    names = [name or f"\0{row}" for row, name in enumerate(table["program"].tolist())]
    done = (table["finish"] == "completed").tolist()
    return {name: time for name, time, ended in zip(names, table["time"].tolist(), done, strict=True) if ended}


def _early(columns: Columns, after: Sequence[Sequence[int]]) -> int:
    """Requests that came before one that they repeat had ended."""
    ids: list[int] = columns["id"].tolist()
    ends = dict(zip(ids, np.where(np.isnan(columns["end"]), np.inf, columns["end"]).tolist(), strict=True))
    arrivals = zip(ids, columns["arrival"].tolist(), strict=True)
    return sum([any(ends.get(other, np.inf) > arrival for other in after[id]) for id, arrival in arrivals])


def _begun(members: Sequence[Sequence[int]], columns: Columns) -> list[Sequence[int]]:
    there = set(columns["id"].tolist())
    return [ids for ids in members if not there.isdisjoint(ids)]


def _whole(table: Columns, horizon_s: float, warmup_s: float) -> tuple[float, float]:
    if not len(table["end"]):
        return 0.0, 0.0
    end = np.where(np.isnan(table["end"]), horizon_s, table["end"])
    return float(table["first_arrival"].min()) + warmup_s, float(end.max())


def _mean(values: NDArray[Any]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _percentile(values: Floats, which: float) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, which)) if len(finite) else None
