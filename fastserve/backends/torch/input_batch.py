"""pack(): packs sequences and their block tables into one Step (no padding)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from fastserve.backends.torch.step import Step


class Rows(NamedTuple):
    """The part of a step that is one sequence's: its next tokens, in the order of their positions.

    table: its physical blocks from position 0 on, up to the last of these tokens. wanted: the logits after the last.
    """

    tokens: Sequence[int]
    first: int  # position of tokens[0]
    table: Sequence[int]
    wanted: bool


def pack(decodes: Sequence[Rows], chunks: Sequence[Rows], block: int) -> Step:
    """decodes have one token each. block: tokens in a block. There must be at least one sequence."""
    at = [rows.first for rows in decodes]
    tokens = [np.array([rows.tokens[0] for rows in decodes], np.int64)]
    positions = [np.array(at, np.int64)]
    slots = [
        np.array([rows.table[p // block] * block + p % block for rows, p in zip(decodes, at, strict=True)], np.int64)
    ]
    starts = list(range(len(decodes) + 1))
    lengths = [p + 1 for p in at]
    wanted = list(range(len(decodes)))
    for rows in chunks:
        span = np.arange(rows.first, rows.first + len(rows.tokens), dtype=np.int64)
        tokens.append(np.array(rows.tokens, np.int64))
        positions.append(span)
        slots.append(np.array(rows.table, np.int64)[span // block] * block + span % block)
        starts.append(starts[-1] + len(rows.tokens))
        lengths.append(rows.first + len(rows.tokens))
        if rows.wanted:
            wanted.append(starts[-1] - 1)
    widths = [-(-length // block) for length in lengths]
    tables = np.zeros((len(lengths), max(widths)), np.int32)
    for i, (rows, width) in enumerate(zip([*decodes, *chunks], widths, strict=True)):
        tables[i, :width] = rows.table[:width]
    return Step(
        tokens=torch.from_numpy(np.concatenate(tokens)),
        positions=torch.from_numpy(np.concatenate(positions)),
        slots=torch.from_numpy(np.concatenate(slots)),
        starts=torch.tensor(starts, dtype=torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        tables=torch.from_numpy(tables),
        decodes=len(decodes),
        wanted=torch.tensor(wanted, dtype=torch.int64),
    )
