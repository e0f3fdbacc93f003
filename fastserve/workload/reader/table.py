"""Table: rows of raw cells, a whole file or a part of it; Tables: what a format's reader gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastserve.workload.reader.parse import Cells, Fault


@dataclass(frozen=True, slots=True)
class Table:
    path: str
    names: list[str]
    """Column names in order of appearance; "0", "1", ... for a CSV whose first row holds only numbers."""
    columns: list[Cells]
    """One sequence of cells per name, all of equal length; int64 arrays and parse.Fixed where a library has parsed."""
    lines: Sequence[int]
    """The line (or, in a JSON array or a columnar file, the entry) of each row, from 1."""
    broken: list[tuple[int, Fault]]
    """(line, fault) of what could not be split into cells at all."""

    def __getitem__(self, name: str) -> Cells:
        return self.columns[self.names.index(name)]

    def get(self, name: str) -> Cells:
        """Its cells; empty ones where this part of the file has no such column."""
        return self[name] if name in self.names else [None] * len(self)

    def __len__(self) -> int:
        return len(self.lines)


class Tables(Protocol):
    """An opened file of one format."""

    names: list[str]
    """Columns, as far as the beginning of the file tells."""

    def tables(self, wanted: Mapping[str, bool]) -> Iterator[Table]:
        """The whole file in order, once, in parts. wanted: column -> whether its cells are to stay text; columns that
        are not wanted may be left out.
        """
        ...


def whole(opened: Tables, path: str) -> Table:
    """All parts in one, for small files."""
    parts = list(opened.tables(dict.fromkeys(opened.names, True)))
    names = list(dict.fromkeys(name for part in parts for name in part.names)) or opened.names
    columns: list[Cells] = [[cell for part in parts for cell in part.get(name)] for name in names]
    lines = [line for part in parts for line in part.lines]
    return Table(path, names, columns, lines, [one for part in parts for one in part.broken])
