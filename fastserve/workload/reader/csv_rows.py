"""CSV: by Python's csv module, the specification; by csv_arrow where a block is plain and the file is large."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from fastserve.workload.errors import TraceError
from fastserve.workload.reader import csv_arrow
from fastserve.workload.reader.parse import Cells, Fault
from fastserve.workload.reader.source import Source
from fastserve.workload.reader.table import Table

ROWS = 16_384
"""Rows of a part, at most, where the csv module reads."""


class CsvRows:
    """Comma, tab or semicolon; a header, or columns "0", "1", ... where the first row is of numbers."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._blocks = source.blocks()
        self._first = next(self._blocks, b"")
        head = source.text(self._first, 0).lstrip().partition("\n")[0]
        self.delimiter = max(",\t;", key=head.count)
        self.names: list[str] = []
        self.headless = False
        for row, _ in self._split([source.text(self._first, 0)], 0):
            self.headless = all(_is_number(cell) for cell in row)
            self.names = [str(i) for i in range(len(row))] if self.headless else [cell.strip() for cell in row]
            break

    def tables(self, wanted: Mapping[str, bool]) -> Iterator[Table]:
        fast = csv_arrow.Fast(self.source.where, self.names, wanted, self.delimiter)
        number, header = 0, not self.headless
        block: bytes | None = self._first
        while block is not None:
            if b'"' in block:  # a cell may hold line ends: from here on the rows decide where a line ends
                yield from self._rows(self._lines(chain([block], self._blocks), number), number, header)
                return
            table = None if number == 0 else fast.table(block, number)
            if table is not None:
                yield table
            else:
                yield from self._rows([self.source.text(block, number)], number, header)
            number, header = number + block.count(b"\n"), False
            block = next(self._blocks, None)

    def _lines(self, blocks: Iterable[bytes], number: int) -> Iterator[str]:
        for block in blocks:
            yield from io.StringIO(self.source.text(block, number), newline="")
            number += block.count(b"\n")

    def _rows(self, texts: Iterable[str], before: int, header: bool) -> Iterator[Table]:
        """Parts of the rows in `texts`, which begin after line `before`."""
        rows: list[list[str]] = []
        lines: list[int] = []
        broken: list[tuple[int, Fault]] = []
        for row, line in self._split(texts, before):
            if header:
                header = False
                continue
            if len(row) == len(self.names):
                rows.append(row)
                lines.append(line)
            else:
                message = f"the row has {len(row)} cells, the first row has {len(self.names)}"
                broken.append((line, Fault("malformed", message)))
            if len(rows) == ROWS:
                yield self._table(rows, lines, broken)
                rows, lines, broken = [], [], []
        if rows or broken:
            yield self._table(rows, lines, broken)

    def _split(self, texts: Iterable[str], before: int) -> Iterator[tuple[list[str], int]]:
        """(cells, line) of each row that is not blank."""
        parts = chain.from_iterable(io.StringIO(text, newline="") for text in texts)
        reader = csv.reader(parts, delimiter=self.delimiter)
        try:
            for row in reader:
                if row and row != [""]:
                    yield row, before + reader.line_num
        except csv.Error as error:
            raise TraceError(f"this is not CSV ({error})", self.source.where, before + reader.line_num) from None

    def _table(self, rows: list[list[str]], lines: list[int], broken: list[tuple[int, Fault]]) -> Table:
        columns: list[Cells] = [list(column) for column in zip(*rows, strict=True)]
        return Table(self.source.where, self.names, columns or [[] for _ in self.names], lines, broken)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
