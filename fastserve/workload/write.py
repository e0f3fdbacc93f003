"""write_trace: our own JSON lines, or Mooncake's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from fastserve.workload.after import After
from fastserve.workload.errors import TraceError
from fastserve.workload.programs import groups
from fastserve.workload.trace import NS, Trace

FORMATS = ("ours", "mooncake")


def write_trace(trace: Trace, path: str | Path, format: str = "ours") -> None:
    """Writes `trace`, gzipped if the name ends in .gz (always the same bytes for the same trace).

    ours: every column, times exact to the nanosecond; read_trace gives the same digest back. `after` holds the numbers
    of rows, from 0; `think_s` counts from the end of the last of these.
    mooncake: `timestamp` in whole milliseconds (rounded), `input_length`, `output_length`, `hash_ids`; all else is left
    out. Its readers learn the block size elsewhere, and take a file without block ids for one in seconds, so requests
    without ids get ids of their own that nothing shares. Of a trace whose requests wait for one another it has
    `session_id` too, and `delay` (ms after the answer before) instead of the timestamp of one that waits; TraceError
    for a program that forks, which this format cannot say.
    """
    text = lines(trace, format)
    first = next(text)  # before there is a file, for what cannot be written in a format
    try:
        with Path(path).open("wb") as file, _packed(file) if str(path).endswith(".gz") else nullcontext(file) as out:
            for line in chain([first], text):
                out.write(f"{line}\n".encode())
    except OSError as error:
        raise TraceError(f"cannot be written ({error.strerror})", str(path)) from None


def _packed(file: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))


def lines(trace: Trace, format: str = "ours") -> Iterator[str]:
    """One JSON object per request, without line ends."""
    if format not in FORMATS:
        raise TraceError(f"unknown format {format!r}; use one of {', '.join(FORMATS)}")
    return _ours(trace) if format == "ours" else _mooncake(trace)


def _ours(trace: Trace) -> Iterator[str]:
    arrival, prompt, output = trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist()
    names = ("client", "program", "slo_class", "tool", "scope")
    texts = [(name, column) for name in names if (column := getattr(trace, name)) is not None]
    wholes = [("max_tokens", trace.max_tokens), ("guess", trace.guess)]
    targets = [("ttft_ms", trace.ttft_slo), ("tpot_ms", trace.tpot_slo), ("e2e_ms", trace.e2e_slo)]
    for i in range(len(trace)):
        line = f'{{"arrival_s": {_decimal(arrival[i], 9)}, "prompt_tokens": {prompt[i]}, "output_tokens": {output[i]}'
        line += "".join(f', "{name}": {json.dumps(column[i])}' for name, column in texts)
        if trace.after is not None:
            assert trace.think is not None
            line += f', "after": {json.dumps(list(trace.after[i]))}, "think_s": {_decimal(int(trace.think[i]), 9)}'
        if trace.priority is not None:
            line += f', "priority": {trace.priority[i]}'
        line += "".join(f', "{name}": {column[i]}' for name, column in wholes if column is not None and column[i])
        slo = [f'"{name}": {_decimal(int(column[i]), 6)}' for name, column in targets if column is not None]
        if slo:
            line += f', "slo": {{{", ".join(slo)}}}'
        if trace.hash_ids is not None:
            ids = json.dumps(trace.hash_ids[i], separators=(",", ":"))
            line += f', "hash_ids": {ids}, "block_size": {trace.block_size}'
        yield line + "}"


def _decimal(ns: int, digits: int) -> str:
    """ns as an exact decimal of a unit that is 10^digits ns long."""
    whole, fraction = divmod(ns, 10**digits)
    return f"{whole}.{fraction:0{digits}d}".rstrip("0").removesuffix(".")


def _mooncake(trace: Trace) -> Iterator[str]:
    blocks = _separate_partial_blocks(trace)
    columns = zip(trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist(), blocks, strict=True)
    if trace.after is None:
        for ns, prompt, output, ids in columns:
            yield json.dumps({"timestamp": _ms(ns), "input_length": prompt, "output_length": output, "hash_ids": ids})
        return
    assert trace.think is not None
    assert trace.program is not None
    rows = list(columns)
    _refuse_forks(trace.after, trace.program)
    for program in groups(trace):
        for row in program:
            ns, prompt, output, ids = rows[row]
            when = {"delay": _ms(int(trace.think[row]))} if trace.after[row] else {"timestamp": _ms(ns)}
            yield json.dumps(
                {"session_id": trace.program[row] or f"row {row}", **when, "input_length": prompt,
                 "output_length": output, "hash_ids": ids}
            )  # fmt: skip


def _ms(ns: int) -> int:
    half = NS // 2000
    return (ns + half) // (2 * half)


def _refuse_forks(after: After, program: list[str]) -> None:
    last: dict[str, int] = {}
    for row, before in enumerate(after):
        if before != ((last[program[row]],) if program[row] in last else ()):
            raise TraceError(
                f"program {program[row]!r} is no single line of turns (row {row}), which is all that Mooncake's "
                "sessions can say; write it in our own format (--format ours)"
            )
        if program[row]:
            last[program[row]] = row


def _separate_partial_blocks(trace: Trace) -> Iterator[list[int]]:
    """Block ids in which no id stands for two numbers of tokens.

    Clients that make the text of a block from its id refuse a trace whose id is full in one prompt and partial in
    another; such a partial block gets an id that nothing shares. What a row has no ids for gets fresh ones.
    """
    size, prompts = trace.block_size, trace.prompt.tolist()
    scopes = trace.scope or [""] * len(trace)
    given = trace.hash_ids or [()] * len(trace)
    held: dict[tuple[str, int], int] = {}  # tokens for which an id stands; 0: for different numbers
    for prompt, scope, ids in zip(prompts, scopes, given, strict=True):
        for position, block in enumerate(ids):
            tokens = min(size, prompt - position * size)
            if held.setdefault((scope, block), tokens) != tokens:
                held[scope, block] = 0
    names: dict[tuple[str, int], int] = {}
    apart = trace.scope is not None  # ids are of their scope: numbered anew, for here they would meet
    fresh = len(held) if apart else max((block for _, block in held), default=-1) + 1
    for prompt, scope, ids in zip(prompts, scopes, given, strict=True):
        row = [names.setdefault((scope, block), len(names)) for block in ids] if apart else list(ids)
        missing = -(-prompt // size) - len(row)
        if row and not missing and prompt % size and not held[scope, ids[-1]]:
            row.pop()
            missing = 1
        yield row + list(range(fresh, fresh + missing))
        fresh += missing
