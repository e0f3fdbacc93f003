"""Ids of a prompt's blocks (hash_ids), as other projects write them, and how many tokens a block has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastserve.workload.block_ids import NONE, BlockIds
from fastserve.workload.reader.parse import Cells, is_empty
from fastserve.workload.trace import IntArray


class Blocks(NamedTuple):
    """The prompts' block ids, row by row, and the tokens per block."""

    ids: BlockIds
    size: int


class Ids(NamedTuple):
    ids: list[int]
    kind: type


def ids_in(cell: object) -> Ids | None:
    """The block ids in a cell; None if they cannot be read."""
    if is_empty(cell):
        return Ids([], int)
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    if not isinstance(cell, list):
        return None
    if all(type(one) is int for one in cell):
        return Ids(cell, int)
    try:
        return Ids([int(one, 16) for one in cell], str)
    except (TypeError, ValueError):
        return None


class IdCells:
    """The block ids of a file's rows, taken in part by part."""

    def __init__(self) -> None:
        self.ids = BlockIds()
        self.kinds: set[type] = set()
        """What the ids were written as."""
        self.sizes: list[object] = []
        """The distinct cells of a column block_size."""
        self._last: dict[str, int] = {}

    def add(self, cells: Cells, keep: npt.NDArray[np.intp], before: int, kin: Sequence[tuple[str, str]]) -> list[int]:
        """Of the rows kept, behind `before` others. kin: the name under which an earlier row was kept that each may
        begin like, and its own; "" for none. Returns rows whose cells cannot be read.
        """
        self._fill(before)
        bad = []
        for row, (like, name) in zip(keep.tolist(), kin, strict=True):
            found = ids_in(cells[row])
            if found is None:
                bad.append(row)
                found = Ids([], int)
            elif found.ids:
                self.kinds.add(found.kind)
            self.ids.append(found.ids, self._last.get(like, NONE) if like else NONE)
            if name:
                self._last[name] = len(self.ids) - 1
        return bad

    def add_sizes(self, cells: Cells) -> None:
        """A column block_size."""
        seen = {repr(size) for size in self.sizes}
        for cell in dict.fromkeys(repr(int(cell) if isinstance(cell, np.integer) else cell) for cell in cells):
            size = literal(cell)
            if not is_empty(size) and size != "None" and repr(size) not in seen:
                seen.add(repr(size))
                self.sizes.append(size)

    def blocks(self, rows: int, prompt: IntArray, usual: int | None) -> Blocks | str | None:
        """None without any; why, where they are not the blocks of prompts of these lengths. usual: tokens of a block in
        files of this format.
        """
        if not len(self.ids):
            return None
        self._fill(rows)
        if len(self.kinds) > 1:
            return "numbers in some rows and texts in others"
        held = np.array(self.ids.lengths(), np.int64)
        if self.sizes:
            size = self.sizes[0]
            if type(size) is not int or size < 1 or len(self.sizes) > 1:
                return "block_size is not one positive whole number, the same in every row"
            fits = _fits(held, prompt, size)
            return Blocks(self.ids, size) if fits else f"not the blocks of {size} tokens of their prompts"
        if usual is not None and _fits(held, prompt, usual):
            return Blocks(self.ids, usual)
        for guess in (512, 16, 64, 128, 256, 32):
            if bool(((held == 0) | (held == -(-prompt // guess))).all()):
                return Blocks(self.ids, guess)
        return "their number fits no usual block size; a column block_size would tell it"

    def _fill(self, rows: int) -> None:
        while len(self.ids) < rows:
            self.ids.append(())


def _fits(held: IntArray, prompt: IntArray, size: int) -> bool:
    """Whether every prompt has an id for each of its blocks, with or without the last, partial one."""
    return bool(((held == 0) | (held == prompt // size) | (held == -(-prompt // size))).all())


def literal(text: str) -> object:
    """A repr of a block size back; CSV gives numbers as texts."""
    bare = text.strip("'\"")
    return int(bare) if bare.isdecimal() and len(bare) < 19 else bare
