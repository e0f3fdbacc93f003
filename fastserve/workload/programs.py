"""The programs of a trace as wholes: which rows each has, and traces put together from programs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastserve.workload.block_ids import NONE, BlockIds
from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import NS, Trace


def groups(trace: Trace) -> list[list[int]]:
    """The rows of each program, rising, by first rows; a row that names no program is one by itself."""
    rows: dict[object, list[int]] = defaultdict(list)
    for row, name in enumerate(trace.program or [""] * len(trace)):
        rows[name or row].append(row)
    return list(rows.values())


def turns_of(trace: Trace) -> list[int]:
    """By row its place among its program's, from 1; 0 where it has none."""
    count: Counter[str] = Counter()
    found = []
    for name in trace.program or [""] * len(trace):
        count[name] += 1
        found.append(count[name] if name else 0)
    return found


def starts(trace: Trace) -> list[int]:
    """ns at which each of them begins; rising."""
    return [int(trace.arrival[rows[0]]) for rows in groups(trace)]


def put_together(trace: Trace, which: Sequence[int], start: Sequence[int]) -> Trace:
    """These programs (places in groups(), rising starts), beginning at these ns; the distances within each stay.

    A program that is taken again is another one that asks the same: it has a name and contents of its own, but shares
    what different programs of the trace share.
    """
    of = groups(trace)
    rows = np.array([row for program in which for row in of[program]])
    lengths = [len(of[program]) for program in which]
    begins = np.array([trace.arrival[of[program][0]] for program in which])
    arrival = trace.arrival[rows] + np.repeat(np.array(start, np.int64) - begins, lengths)
    seen: Counter[int] = Counter()
    copies = []
    for program in which:
        copies.append(seen[program])
        seen[program] += 1
    copy = np.repeat(np.array(copies), lengths)
    order = np.lexsort((np.arange(len(rows)), arrival))
    chosen = replace(trace, after=None, think=None, dropped={}).take(rows[order], rebase=False)
    changed = {"arrival": arrival[order] - arrival[order[0]], "dropped": trace.dropped}
    if trace.after is not None:
        assert trace.think is not None
        changed |= {"after": _after(trace, which, of, order), "think": trace.think[rows[order]]}
    if any(copies):
        changed |= _names(trace, rows[order].tolist(), copy[order].tolist())
    return replace(chosen, **changed)


def successive(trace: Trace, first: int, count: int) -> Trace:
    """So many programs, from this one on."""
    which = range(first, first + count)
    begins = starts(trace)
    return put_together(trace, which, [begins[program] for program in which])


def repeated(trace: Trace, copies: int) -> Trace:
    """All programs, so many times over, each round a mean gap after the last one."""
    if copies == 1:
        return trace
    begins = starts(trace)
    n = len(begins)
    round_ns = begins[-1] - begins[0] + ((begins[-1] - begins[0]) // (n - 1) if n > 1 else NS)
    begun = [begin + copy * round_ns for copy in range(copies) for begin in begins]
    return put_together(trace, list(range(n)) * copies, begun)


def permuted(trace: Trace, seed: int) -> Trace:
    """The same starts, the programs behind them permuted; seed 0 is the trace itself."""
    if not seed:
        return trace
    begins = starts(trace)
    return put_together(trace, np.random.default_rng(seed_sequence(seed)).permutation(len(begins)).tolist(), begins)


def drawn(trace: Trace, seed: int) -> Trace:
    """As many programs, drawn with replacement, each with the gap before its start; seed 0 is the trace itself."""
    if not seed:
        return trace
    begins = starts(trace)
    n = len(begins)
    which = np.random.default_rng(seed_sequence(seed)).integers(n, size=n)
    mean = (begins[-1] - begins[0]) // (n - 1) if n > 1 else NS
    gaps = np.diff(np.array(begins, np.int64), prepend=begins[0] - mean)[which]
    gaps[0] = 0
    return put_together(trace, which.tolist(), np.cumsum(gaps).tolist())


def _after(
    trace: Trace, which: Sequence[int], of: list[list[int]], order: np.ndarray[tuple[int, ...], np.dtype[np.intp]]
) -> list[tuple[int, ...]]:
    assert trace.after is not None
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    places = place.tolist()
    found: list[tuple[int, ...]] = [()] * len(order)
    at = 0
    for program in which:
        here = {row: places[at + i] for i, row in enumerate(of[program])}
        for row, new in here.items():
            found[new] = tuple(here[other] for other in trace.after[row])
        at += len(here)
    return found


def _names(trace: Trace, rows: list[int], copy: list[int]) -> dict[str, object]:
    """Names, scopes and block ids by row, of copies (those above 0) ones of their own."""
    changed: dict[str, object] = {}
    names = trace.program or [""] * len(trace)
    if trace.program is not None:
        changed["program"] = [
            f"{names[row]}#{k + 1}" if k and names[row] else names[row] for row, k in zip(rows, copy, strict=True)
        ]
    if trace.hash_ids is None:
        return changed
    if trace.scope is not None:
        scopes = [trace.scope[row] for row in rows]
        changed["scope"] = [f"{scope}#{k + 1}" if k else scope for scope, k in zip(scopes, copy, strict=True)]
        return changed
    homes: dict[int, object] = {}  # block id -> the only program that has it, else None
    given = trace.hash_ids
    for row, name in enumerate(names):
        home = name or row
        for block in given.fresh(row) if isinstance(given, BlockIds) else given[row]:
            if homes.setdefault(block, home) != home:
                homes[block] = None
    fresh = max(homes, default=-1) + 1
    own: dict[tuple[int, int], int] = {}
    found, last = BlockIds(), dict[tuple[str, int], int]()
    for new, (row, k) in enumerate(zip(rows, copy, strict=True)):
        ids = given[row]
        if k:
            ids = [block if homes[block] is None else own.setdefault((k, block), fresh + len(own)) for block in ids]
        found.append(ids, last.get((names[row], k), NONE))
        last[names[row], k] = new
    changed["hash_ids"] = found
    return changed
