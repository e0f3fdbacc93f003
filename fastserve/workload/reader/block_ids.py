"""Ids of a prompt's blocks (hash_ids), as other projects write them, and how many tokens a block has."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np

from fastserve.workload.reader.parse import is_empty
from fastserve.workload.trace import IntArray


class Blocks(NamedTuple):
    """The prompts' block ids, row by row, and the tokens per block."""

    ids: list[list[int]]
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


def _fits(held: IntArray, prompt: IntArray, size: int) -> bool:
    """Whether every prompt has an id for each of its blocks, the last, partial one counted in all rows or in none."""
    return any(bool(((held == 0) | (held == full)).all()) for full in (-(-prompt // size), prompt // size))


def blocks_of(ids: list[list[int]], kinds: AbstractSet[type], sizes: list[object], prompt: IntArray) -> Blocks | str:
    """The blocks of prompts of these lengths, or why they cannot be used.

    kinds: what the ids were written as. sizes: the distinct cells of a column block_size.
    """
    if len(kinds) > 1:
        return "numbers in some rows and texts in others"
    held = np.array([len(row) for row in ids], np.int64)
    if sizes:
        size = sizes[0]
        if type(size) is not int or size < 1 or len(sizes) > 1:
            return "block_size is not one positive whole number, the same in every row"
        return Blocks(ids, size) if _fits(held, prompt, size) else f"not the blocks of {size} tokens of their prompts"
    for usual in (512, 16, 64, 128, 256, 32):
        if bool(((held == 0) | (held == -(-prompt // usual))).all()):
            return Blocks(ids, usual)
    return "their number fits no usual block size; a column block_size would tell it"


def literal(text: str) -> object:
    """A repr of a block size back; CSV gives numbers as texts."""
    bare = text.strip("'\"")
    return int(bare) if bare.isdecimal() else bare
