"""Looks at a few places of the rest of a file, to see whether a reader may stop early."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fastserve.workload.reader.json_rows import DECODER

PLACES = 64
PIECE = 2**16
"""Bytes read at a place; a longer line is passed over."""

IN_A_BLOCK = 8
"""Places of a block of a file that can only be read from its beginning."""


def in_order(path: Path, start: int, last: int, names: Sequence[str], column: str, delimiter: str | None,
             ns: Callable[[object], int | None]) -> bool:  # fmt: skip
    """Whether arrivals at places spread over the file behind byte `start` never decrease, from `last` (ns) on.

    delimiter: of CSV; None: JSON lines. ns: reads a cell. What cannot be read at a place says nothing.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for place in range(1, PLACES + 1):
            at = max(start, start + (size - start) * place // PLACES - (PIECE if place == PLACES else 0))
            file.seek(at)
            lines = file.read(PIECE).split(b"\n")[1:-1]
            for line in lines[-1:] if place == PLACES else lines[:1]:
                time = ns(_cell(line, names, column, delimiter))
                if time is None:
                    continue
                if time < last:
                    return False
                last = time
    return True


def blocks_in_order(blocks: Iterable[bytes], names: Sequence[str], column: str, delimiter: str | None,
                    ns: Callable[[object], int | None]) -> bool:  # fmt: skip
    """The same of a file that is packed or in UTF-16: all its blocks, from the first."""
    last = None
    for block in blocks:
        for place in range(IN_A_BLOCK + 1):
            begin = block.rfind(b"\n", 0, max(0, len(block) * place // IN_A_BLOCK - 1)) + 1
            end = block.find(b"\n", begin)
            time = ns(_cell(block[begin : end if end >= 0 else len(block)], names, column, delimiter))
            if time is None:
                continue
            if last is not None and time < last:
                return False
            last = time
    return True


def _cell(line: bytes, names: Sequence[str], column: str, delimiter: str | None) -> object:
    try:
        text = line.decode().rstrip("\r")
        if delimiter is None:
            row = DECODER.decode(text)
            return row.get(column) if isinstance(row, dict) else None
        cells = next(csv.reader([text], delimiter=delimiter))
        return cells[names.index(column)] if len(cells) == len(names) else None
    except (ValueError, StopIteration, csv.Error, RecursionError):
        return None
