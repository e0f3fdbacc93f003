"""write_trace: our own JSON lines, or Mooncake's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from fastserve.workload.errors import TraceError
from fastserve.workload.trace import NS, Trace

FORMATS = ("ours", "mooncake")


def write_trace(trace: Trace, path: str | Path, format: str = "ours") -> None:
    """Writes `trace`, gzipped if the name ends in .gz (always the same bytes for the same trace).

    ours: every column, times exact to the nanosecond; read_trace gives the same digest back.
    mooncake: `timestamp` in whole milliseconds (rounded), `input_length`, `output_length`, `hash_ids`; all else is left
    out. Its readers learn the block size elsewhere, and take a file without block ids for one in seconds, so requests
    without ids get ids of their own that nothing shares.
    """
    data = "".join(f"{line}\n" for line in lines(trace, format)).encode()
    try:
        Path(path).write_bytes(gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)
    except OSError as error:
        raise TraceError(f"cannot be written ({error.strerror})", str(path)) from None


def lines(trace: Trace, format: str = "ours") -> Iterator[str]:
    """One JSON object per request, without line ends."""
    if format not in FORMATS:
        raise TraceError(f"unknown format {format!r}; use one of {', '.join(FORMATS)}")
    return _ours(trace) if format == "ours" else _mooncake(trace)


def _ours(trace: Trace) -> Iterator[str]:
    arrival, prompt, output = trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist()
    texts = [(name, column) for name in ("client", "program") if (column := getattr(trace, name)) is not None]
    wholes = [("max_tokens", trace.max_tokens), ("guess", trace.guess)]
    targets = [("ttft_ms", trace.ttft_slo), ("tpot_ms", trace.tpot_slo), ("e2e_ms", trace.e2e_slo)]
    for i in range(len(trace)):
        line = f'{{"arrival_s": {_decimal(arrival[i], 9)}, "prompt_tokens": {prompt[i]}, "output_tokens": {output[i]}'
        line += "".join(f', "{name}": {json.dumps(column[i])}' for name, column in texts)
        if trace.priority is not None:
            line += f', "priority": {trace.priority[i]}'
        line += "".join(f', "{name}": {column[i]}' for name, column in wholes if column is not None and column[i])
        slo = [f'"{name}": {_decimal(int(column[i]), 6)}' for name, column in targets if column is not None]
        if slo:
            line += f', "slo": {{{", ".join(slo)}}}'
        if trace.hash_ids is not None:
            line += f', "hash_ids": {json.dumps(trace.hash_ids[i])}, "block_size": {trace.block_size}'
        yield line + "}"


def _decimal(ns: int, digits: int) -> str:
    """ns as an exact decimal of a unit that is 10^digits ns long."""
    whole, fraction = divmod(ns, 10**digits)
    return f"{whole}.{fraction:0{digits}d}".rstrip("0").removesuffix(".")


def _mooncake(trace: Trace) -> Iterator[str]:
    blocks = _separate_partial_blocks(trace)
    half = NS // 2000
    for ns, prompt, output, ids in zip(
        trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist(), blocks, strict=True
    ):
        row = {"timestamp": (ns + half) // (2 * half), "input_length": prompt, "output_length": output, "hash_ids": ids}
        yield json.dumps(row)


def _separate_partial_blocks(trace: Trace) -> list[list[int]]:
    """Block ids in which no id stands for two numbers of tokens.

    Clients that make the text of a block from its id refuse a trace whose id is full in one prompt and partial in
    another; such a partial block gets an id that nothing shares. A row without ids gets fresh ones.
    """
    size, prompts = trace.block_size, trace.prompt.tolist()
    given = trace.hash_ids or [[]] * len(trace)
    held: dict[int, set[int]] = {}
    for prompt, ids in zip(prompts, given, strict=True):
        for position, block in enumerate(ids):
            held.setdefault(block, set()).add(min(size, prompt - position * size))
    fresh = max(held, default=-1) + 1
    separate: list[list[int]] = []
    for prompt, ids in zip(prompts, given, strict=True):
        row = list(ids)
        if not row:
            row = list(range(fresh, fresh - (-prompt // size)))
            fresh += len(row)
        elif prompt % size and len(held[row[-1]]) > 1:
            row[-1] = fresh
            fresh += 1
        separate.append(row)
    return separate
