"""Parquet and Arrow files, by pyarrow: only the columns that are asked for, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastserve.importing import extra
from fastserve.workload.errors import TraceError
from fastserve.workload.reader.parse import Cells, Fixed
from fastserve.workload.reader.table import Table

PARQUET, ARROW = b"PAR1", b"ARROW1"
ROWS = 65_536


class Columnar:
    def __init__(self, path: Path, magic: bytes) -> None:
        self.path = str(path)
        try:
            import pyarrow as pa
        except ImportError:
            raise TraceError(
                f"this is a columnar file, and pyarrow is not installed: {extra('sim')}", self.path
            ) from None
        try:
            self._open(path, magic)
        except (pa.ArrowException, OSError) as error:
            kind = "Parquet" if magic == PARQUET else "Arrow"
            raise TraceError(
                f"this {kind} file cannot be read ({' '.join(str(error).split())[:200]})", self.path
            ) from None

    def _open(self, path: Path, magic: bytes) -> None:
        self._batches: Any
        self.read = 0
        """Rows given so far, of `rows`."""
        if magic == PARQUET:
            from pyarrow import parquet

            file = parquet.ParquetFile(path)
            self.names = list(file.schema_arrow.names)
            self.rows = file.metadata.num_rows
            self._batches = lambda wanted: file.iter_batches(ROWS, columns=wanted)
        else:
            from pyarrow import ipc, memory_map

            opened = ipc.open_file(memory_map(str(path)))
            self.names = list(opened.schema.names)
            self.rows = sum(opened.get_batch(i).num_rows for i in range(opened.num_record_batches))
            self._batches = lambda wanted: (
                opened.get_batch(i).select(wanted) for i in range(opened.num_record_batches)
            )

    def tables(self, wanted: Mapping[str, bool]) -> Iterator[Table]:
        import pyarrow as pa

        names = [name for name in dict.fromkeys(wanted) if name in self.names]
        entry = 1
        try:
            for batch in self._batches(names):
                columns = [_cells(batch.column(name)) for name in names]
                self.read += batch.num_rows
                yield Table(self.path, names, columns, range(entry, entry + batch.num_rows), [])
                entry += batch.num_rows
        except pa.ArrowException as error:
            raise TraceError(f"row {entry:,} or later cannot be read ({error})", self.path) from None

    def in_order(self, name: str) -> bool | None:
        """Whether the numbers or times of a column never decrease, the missing ones left out; None of other columns."""
        last = None
        for batch in self._batches([name]):
            values = _comparable(batch.column(name))
            if values is None:
                return None
            if len(values):
                if (np.diff(values) < 0).any() or (last is not None and values[0] < last):
                    return False
                last = values[-1]
        return True


def _comparable(column: Any) -> Any:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_temporal(kind):
        column = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    values = column.drop_null().to_numpy(zero_copy_only=False)
    return values[~np.isnan(values)] if pa.types.is_floating(kind) else values


def _cells(column: Any) -> Cells:
    """As JSON would give them: whole numbers, decimals as text, texts, lists, None."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_integer(kind) and not column.null_count and not pa.types.is_uint64(kind):
        return column.to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]
    if pa.types.is_duration(kind) or pa.types.is_time(kind):  # as times of one day, whatever the column's name says
        column = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(pa.int64())
        column, kind = column.cast(pa.timestamp(kind.unit)), pa.timestamp(kind.unit)
    if pa.types.is_timestamp(kind) and not column.null_count:
        scale = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[kind.unit]
        return Fixed(column.cast(pa.int64()).to_numpy() * scale, dates=True)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return [
            None if cell is None else repr(cell) if isinstance(cell, float) else str(cell)
            for cell in column.to_pylist()
        ]
    if pa.types.is_temporal(kind):
        return column.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]
    return column.to_pylist()  # type: ignore[no-any-return]
