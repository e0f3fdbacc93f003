"""What a run computed again because the prefix cache had forgotten it, from its records and its content."""

from __future__ import annotations

import numpy as np

from fastserve.metrics.columns import Columns
from fastserve.metrics.finish import is_outcome
from fastserve.sched.units import Ids
from fastserve.workload.content import Content
from fastserve.workload.seen import Seen

COMPUTED, ANSWERED, JOINED = 0, 1, 2
"""In this order where they happen at once: a commit, then a plan."""


def with_evicted(columns: Columns, content: Content) -> Columns:
    """The records with `evicted_tokens`: of each prompt, what earlier requests had computed by the time this one first
    joined, and the device no longer had. They are computed again, so they are `recomputed_tokens` as well.

    What a prefill that never yielded a token had computed is not known to anybody here: a lower bound.
    """
    begun = np.flatnonzero(~np.isnan(columns["first_token"]))
    answered = is_outcome(columns["finish"], "completed")
    events: list[tuple[int, int, int]] = []
    for row in begun.tolist():
        events.append((_ns(columns["first_token"][row]), COMPUTED, row))
        events.append((_ns(columns["arrival"][row]) + _ns(columns["queued"][row]), JOINED, row))
        if answered[row]:
            events.append((_ns(columns["end"][row]), ANSWERED, row))
    events.sort()
    seen = Seen(content.distinct)
    evicted = np.zeros(len(columns["id"]), np.int64)
    ids: list[int] = columns["id"].tolist()
    prompts: list[int] = columns["prompt_tokens"].tolist()
    cached: list[int] = columns["cached_tokens"].tolist()
    paths: dict[int, Ids] = {}
    for _, what, row in events:
        if what == JOINED:
            path = paths[row] = content.prompt(ids[row])
            found = content.unit * min(seen.leading(path), (prompts[row] - 1) // content.unit)
            evicted[row] = max(0, found - cached[row])
        elif what == COMPUTED:
            seen.add(paths.pop(row) if row in paths else content.prompt(ids[row]))
        else:
            seen.add(content.answer(ids[row]))
    return columns | {"evicted_tokens": evicted, "recomputed_tokens": columns["recomputed_tokens"] + evicted}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
