"""The fast way through large, plain CSV: pyarrow parses a block, if nothing in it could be read otherwise by csv_rows.

What it gives equals what the csv module and parse give (a test compares them); a block with anything unusual (a quote,
a blank line, a missing cell, a number that is none) is left to them, and so is every message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastserve.workload.reader.parse import Cells, Fixed
from fastserve.workload.reader.table import Table

PAYS = 2 * 2**20
"""Bytes of a file that are read without: the import of pyarrow costs as much."""

WHOLE, FRACTION, DATE, ZONED, TEXT = range(5)
"""What a column's cells are, in the order in which it is tried."""

_DIGITS = 18
"""Decimals that are kept of a number before those below a nanosecond are dropped."""


class Fast:
    """Tables of blocks; where pyarrow is not installed, of none."""

    def __init__(self, path: str, names: Sequence[str], wanted: Mapping[str, bool], delimiter: str) -> None:
        self.path = path
        self.names = list(dict.fromkeys(name for name in wanted if name in names))
        self.delimiter = delimiter
        self.width = len(names)
        self.at = [list(names).index(name) for name in self.names]
        self.pays = PAYS
        self.seen = 0
        self.kinds = {place: TEXT if wanted[names[place]] else WHOLE for place in self.at}
        """Place of a column -> which of the types fitted the block before."""

    def table(self, block: bytes, before: int) -> Table | None:
        """The rows of a block that begins after line `before`; None where csv_rows is to read it."""
        self.seen += len(block)
        if self.seen < self.pays or not block.isascii():
            return None
        if (b"x" in block and b"0x" in block) or (b"X" in block and b"0X" in block):
            return None  # pyarrow would read a hexadecimal number
        try:
            import pyarrow as pa
        except ImportError:
            return None
        rows = block.count(b"\n") + (not block.endswith(b"\n"))
        types = [pa.int64(), pa.decimal128(38, _DIGITS), pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.string()]
        chosen = dict(self.kinds)
        while True:
            try:
                read = self._read(block, {place: types[kind] for place, kind in chosen.items()})
            except pa.ArrowInvalid as error:
                wrong = next((place for place in self.at if f"CSV column #{place}:" in str(error)), None)
                if wrong is None or chosen[wrong] == TEXT:
                    return None
                chosen[wrong] += 1
                continue
            break
        if read.num_rows != rows:
            return None
        self.kinds = chosen
        columns = [_cells(read.column(i).combine_chunks(), chosen[place]) for i, place in enumerate(self.at)]
        found = [column for column in columns if column is not None]
        if len(found) < len(columns):
            return None
        return Table(self.path, self.names, found, range(before + 1, before + 1 + rows), [])

    def _read(self, block: bytes, types: dict[int, Any]) -> Any:
        import pyarrow as pa
        from pyarrow import csv

        return csv.read_csv(
            pa.BufferReader(block),
            # Its threads would cost more memory than they save time: a block is parsed in some ms.
            read_options=csv.ReadOptions(
                column_names=[str(i) for i in range(self.width)], block_size=len(block) + 1, use_threads=False
            ),
            parse_options=csv.ParseOptions(delimiter=self.delimiter, quote_char=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types={str(place): kind for place, kind in types.items()},
                include_columns=[str(place) for place in self.at],
                null_values=[""],
                strings_can_be_null=False,
            ),
        )


def _cells(column: Any, kind: int) -> Cells | None:
    """An arrow array as cells of a Table; None for what has no exact counterpart."""
    import pyarrow as pa

    if kind == TEXT:
        packed = column.dictionary_encode()
        texts = packed.dictionary.to_pylist()
        return [texts[i] for i in packed.indices.to_numpy().tolist()]
    if column.null_count:
        return ["" if cell is None else cell for cell in column.to_pylist()] if kind == WHOLE else None
    if kind == WHOLE:
        return column.to_numpy()  # type: ignore[no-any-return]
    if kind != FRACTION:
        return Fixed(column.cast(pa.int64()).to_numpy(), dates=True)
    nano = column.cast(pa.decimal128(38, 9), safe=False)
    low, high = np.frombuffer(nano.buffers()[1], np.int64).reshape(-1, 2)[nano.offset : nano.offset + len(nano)].T
    return (
        Fixed(low.copy()) if bool((high == 0).all() and (low >= 0).all()) else None
    )  # else csv_rows words the message
