"""read_trace: reads any supported trace or dataset of lengths; the format is detected from the content."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastserve.workload.arrivals import arrival_times
from fastserve.workload.columns import plain, resolve
from fastserve.workload.errors import TraceError
from fastserve.workload.rows import Rows
from fastserve.workload.seed import seed_sequence
from fastserve.workload.servegen import clients_in_archive, clients_in_table, is_archive, is_client_rates, requests
from fastserve.workload.table import Table, read_table
from fastserve.workload.trace import Trace


def read_trace(
    path: str | Path,
    *,
    columns: str | None = None,
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

    columns: `arrival=ts:ms,prompt=a,output=b` for names that are not recognised.
    lenient: drop rows that cannot be used and count them in Trace.dropped, instead of raising at the first.
    rate: requests/s; a set of lengths without arrival times needs it, any other trace is stretched to it.
    arrivals: the process that gives a set of lengths its times (see arrivals.py; default poisson).
    lengths: the distribution for ServeGen client rates without lengths (see lengths.py).
    seed: shuffles and times a set of lengths, draws ServeGen requests; a recorded trace ignores it.
    start_s, duration_s: the window in seconds since the first arrival (ServeGen: since midnight of its first day).

    Raises TraceError, whose message names file and line.
    """
    where = str(path)
    data = _load(Path(path))
    if is_archive(data):
        trace = requests(clients_in_archive(data, where), where, lengths, seed, start_s, duration_s)
    else:
        table = read_table(_text(data, where), where)
        if is_client_rates(table.names):
            trace = requests(clients_in_table(table), where, lengths, seed, start_s, duration_s)
        else:
            if lengths is not None:
                raise TraceError("this file has its own lengths; --lengths is only for client rates without any", where)
            _refuse_hourly_counts(table)
            trace = _from_table(table, columns, lenient, rate, arrivals, seed).window(start_s, duration_s)
    if num_requests is not None:
        trace = trace.head(num_requests)
    trace = trace if rate is None else trace.with_rate(rate)
    return replace(trace, name=_stem(Path(path)))


def _load(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise TraceError("no such file", str(path)) from None
    except IsADirectoryError:
        raise TraceError("this is a folder; name one file in it", str(path)) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"the gzip data are damaged ({error})", str(path)) from None
    except OSError as error:
        raise TraceError(f"cannot be read ({error.strerror})", str(path)) from None


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TraceError("this is not text (UTF-8); a trace is CSV, JSON lines or a ServeGen tar", path, line) from None


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", ".tar", ".tgz", ".csv", ".jsonl", ".json"):
        name = name.removesuffix(suffix)
    return name or path.name


def _refuse_hourly_counts(table: Table) -> None:
    names = {plain(name) for name in table.names}
    if {"day", "hour", "conversation"} <= names or {"hourstarts", "requests"} <= names:
        raise TraceError(
            "this file counts requests per hour and holds no single request, so it cannot be replayed; "
            "synthesise a trace at the rate of the hour you need (python -m sim.trace synthesise --rate R)",
            table.path,
        )


def _from_table(
    table: Table, spec: str | None, lenient: bool, rate: float | None, arrivals: str | None, seed: int
) -> Trace:
    columns = resolve(table.names, spec, table.path)
    if "arrival" in columns.names and table and all(cell == "XXX" for cell in table[columns.names["arrival"]]):
        del columns.names["arrival"]  # NanoFlow's length sets keep the Azure header and blank the times out
    timed = "arrival" in columns.names
    if not timed and rate is None:
        raise TraceError(
            "this file has lengths but no arrival times; give --rate R (requests per second), with --arrivals "
            "poisson, gamma:cv=4, onoff:on=10,off=30 or deterministic if you like, "
            "or name the column of arrivals: --columns arrival=NAME:s",
            table.path,
        )
    if timed and arrivals is not None:
        raise TraceError("this file has its own arrival times; --arrivals is only for sets of lengths", table.path)
    rows = Rows(table, columns)
    keep = rows.usable(lenient)
    picked = {field: numbers.values[keep] for field, numbers in rows.numbers.items()}
    if timed:
        arrival = picked.pop("arrival")
        arrival -= arrival[0]
    else:
        assert rate is not None
        streams = seed_sequence(seed).spawn(2)
        order = np.random.default_rng(streams[0]).permutation(len(keep))
        keep = keep[order]
        picked = {field: values[order] for field, values in picked.items()}
        arrival = arrival_times(arrivals or "poisson", len(keep), rate, streams[1])
    positions = keep.tolist()
    blocks = rows.blocks(positions, picked["prompt"], lenient)
    return Trace(
        name=_stem(Path(table.path)),
        source=table.path,
        arrival=arrival,
        prompt=picked["prompt"],
        output=picked["output"],
        client=rows.texts("client", positions),
        program=rows.texts("program", positions),
        priority=picked.get("priority"),
        ttft_slo=picked.get("ttft_slo"),
        tpot_slo=picked.get("tpot_slo"),
        e2e_slo=picked.get("e2e_slo"),
        max_tokens=picked.get("max_tokens"),
        hash_ids=blocks and blocks.ids,
        block_size=blocks.size if blocks else 512,
        guess=picked.get("guess"),
        dropped=dict(rows.dropped),
    )
