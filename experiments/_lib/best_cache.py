"""What the best possible cache would have found on a run's schedule: Belady's, which forgets what is needed last."""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np

from fastserve.metrics.summary import Columns
from fastserve.sched.job import NEVER
from fastserve.workload.content import Content


def belady(columns: Columns, content: Content, pool_tokens: int) -> float:
    """Share of prompt tokens found by a cache of `pool_tokens` that knows what will be asked, in the order in which
    the requests of this run first joined the batch; every request's prompt and answer are in it once it has joined.

    An upper bound in two ways: what running jobs occupy is not subtracted, and units need not be whole prefixes.
    """
    begun = np.flatnonzero(~np.isnan(columns["first_token"]))
    joined = columns["arrival"][begun] + columns["queued"][begun]
    rows = begun[np.argsort(joined, kind="stable")].tolist()
    ids: list[int] = columns["id"].tolist()
    prompts: list[int] = columns["prompt_tokens"].tolist()
    asked = [list(content.prompt(ids[row])) for row in rows]
    written = [list(content.answer(ids[row])) for row in rows]
    following: dict[int, list[int]] = {}  # unit -> the turns that ask for it, the last one first
    for turn in reversed(range(len(rows))):
        for unit in asked[turn]:
            following.setdefault(unit, []).append(turn)
    size = max(1, pool_tokens // content.unit)
    held: dict[int, int] = {}  # unit -> when it is asked for next
    last: list[tuple[int, int]] = []  # (-when, unit): the one that is needed last comes first
    found = 0
    for turn, row in enumerate(rows):
        most = (prompts[row] - 1) // content.unit
        found += sum([unit in held for unit in asked[turn][:most]])
        for unit in (*asked[turn], *written[turn]):
            turns = following.get(unit, [])
            while turns and turns[-1] <= turn:
                turns.pop()
            when = turns[-1] if turns else NEVER
            if when == NEVER:
                held.pop(unit, None)
                continue
            held[unit] = when
            heappush(last, (-when, unit))
        while len(held) > size:
            when, unit = heappop(last)
            if held.get(unit) == -when:
                del held[unit]
    total = int(columns["prompt_tokens"][begun].sum())
    return content.unit * found / total if total else 0.0
