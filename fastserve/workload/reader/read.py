"""read_trace: reads any supported trace or dataset of lengths; the format is detected from the content."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fastserve.workload.errors import TraceError
from fastserve.workload.reader.columns import resolve
from fastserve.workload.reader.file import File, Stop
from fastserve.workload.reader.formats import GIVEN, refuse_hourly_counts, refuse_sessions
from fastserve.workload.reader.json_rows import JsonRows
from fastserve.workload.reader.opened import folder, grouped, opened_of
from fastserve.workload.reader.parse import UNITS
from fastserve.workload.reader.servegen import (
    clients_in_archive,
    clients_in_table,
    is_archive,
    is_client_rates,
    requests,
)
from fastserve.workload.reader.source import Source
from fastserve.workload.reader.table import whole
from fastserve.workload.trace import Trace


def read_trace(
    path: str | Path,
    *,
    columns: str | None = None,
    time_unit: str | None = None,
    lenient: bool = False,
    rate: float | None = None,
    arrivals: str | None = None,
    lengths: str | None = None,
    seed: int = 0,
    start_s: float = 0.0,
    duration_s: float | None = None,
    num_requests: int | None = None,
) -> Trace:
    """Reads, then cuts the window, then takes the first `num_requests`, then stretches the gaps to `rate`.

    path: a file, or a folder of recorded conversations or rounds.
    columns: `arrival=ts:ms,prompt=a,output=b` for names that are not recognised; `priority=` leaves a column out.
    time_unit: s, ms, us or ns, of the arrivals, where neither the column's name nor the format tells.
    lenient: drop rows that cannot be used and count them in Trace.dropped, instead of raising at the first; up to 5 %.
    rate: requests/s; a set of lengths without arrival times needs it, any other trace is stretched to it.
    arrivals: the process that gives a set of lengths its times (see arrivals.py; default poisson).
    lengths: the distribution for ServeGen client rates without lengths (see lengths.py).
    seed: shuffles and times a set of lengths, draws ServeGen requests; a recorded trace ignores it.
    start_s, duration_s: the window in seconds since the first arrival (ServeGen: since midnight of its first day).

    Trace.reading says what was taken for what. Of a large file that is in order, no more is read than is asked for.
    Raises TraceError, whose message names file and line.
    """
    where = str(path)
    if time_unit is not None and time_unit not in UNITS:
        raise TraceError(f"unknown --time-unit {time_unit!r}; use one of {', '.join(UNITS)}")
    with ExitStack() as files:
        source = None if Path(path).is_dir() else files.enter_context(Source(Path(path)))
        if source is not None and is_archive(source.head):
            trace = requests(clients_in_archive(source.rest(), where), where, lengths, seed, start_s, duration_s)
        else:
            opened = folder(Path(path)) if source is None else opened_of(source)
            if is_client_rates(opened.names):
                trace = requests(clients_in_table(whole(opened, where)), where, lengths, seed, start_s, duration_s)
            else:
                if lengths is not None:
                    raise TraceError(
                        "this file has its own lengths; --lengths is only for client rates without any", where
                    )
                if isinstance(opened, JsonRows):
                    opened.refuse_no_objects()
                refuse_hourly_counts(opened.names, where)
                if not all(f"{field}=" in (columns or "") for field in GIVEN):
                    opened = grouped(opened)
                    refuse_sessions(opened.names, where)
                stop = Stop(num_requests, start_s, duration_s)
                file = File(source, opened, resolve(opened.names, columns, where), where, _stem(Path(path)))
                trace = file.trace(time_unit, lenient, rate, arrivals, seed, stop).window(start_s, duration_s)
    if num_requests is not None:
        trace = trace.head(num_requests)
    if rate is not None and not (trace.after is not None and trace.span == 0):  # programs that all begin at once may
        trace = trace.with_rate(rate)
    return replace(trace, name=_stem(Path(path)))


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", ".tar", ".tgz", ".csv", ".jsonl", ".json", ".parquet", ".arrow"):
        name = name.removesuffix(suffix)
    return name or path.name
