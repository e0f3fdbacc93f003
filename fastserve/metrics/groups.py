"""Measures by group of jobs: by priority, client, program, class of objectives, or length, from records of any run.

The groups are made once, from the records of all runs that are compared, so that they are the same for each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.finish import is_outcome
from fastserve.metrics.programs import COPY
from fastserve.metrics.saturation import Columns
from fastserve.metrics.slo import Slo
from fastserve.metrics.summary import Summary, rate_window, summarise
from fastserve.sched.checks import nearest

NAMES: Final = {
    "priority": ("priority", "priorities"),
    "client": ("client", "clients"),
    "program": ("program", "programs"),
    "class": ("slo_class", "classes"),
}
"""Kind of group with a name of its own -> column of the records, and several of them."""
LENGTHS: Final = {"length": ("output_tokens", "output"), "prompt": ("prompt_tokens", "prompt")}
"""Kind of group by length -> column, and whose tokens they are."""
KINDS: Final = (*NAMES, *LENGTHS)

MOST, PARTS = 10, 4
"""Names that have a group of their own, those of most jobs; parts of equally many jobs."""
FINEST = 100
"""Groups at most that may be asked for."""
DOUBLING: Final = "log2"
LEAST = 16
"""Tokens below which powers of two are not told apart."""


@dataclass(frozen=True, slots=True)
class By:
    """What jobs are grouped by. parts: names at most, or parts of equally many jobs; None: powers of two."""

    kind: str
    parts: int | None

    @classmethod
    def parse(cls, text: str | By) -> By:
        """Of "client", "client:20" (the twenty with most jobs), "length:8" (eight parts of equally many jobs) or
        "length:log2" (powers of two). Raises ValueError that lists the kinds.
        """
        if isinstance(text, By):
            return text
        kind, colon, parts = text.strip().lower().partition(":")
        if kind not in KINDS:
            raise ValueError(f"by: there are no groups by {kind!r}, but by {', '.join(KINDS)}{nearest(kind, KINDS)}")
        if not colon:
            return cls(kind, MOST if kind in NAMES else PARTS)
        if parts == DOUBLING and kind in LENGTHS:
            return cls(kind, None)
        if not parts.isdecimal() or not 1 <= int(parts) <= FINEST:
            one = f"{kind}:{MOST}" if kind in NAMES else f"{kind}:{PARTS} or {kind}:{DOUBLING}"
            raise ValueError(f"by: {text!r} is not a number of groups from 1 to {FINEST}; write {one}")
        return cls(kind, int(parts))


@dataclass(frozen=True, slots=True)
class Grouping:
    """Groups in their order. about: what they are, in words. number: of each row of some records, the group's."""

    by: By
    about: str
    names: Sequence[str]
    number: Callable[[Columns], NDArray[np.int64]]
    rest: bool = False
    """Whether the last one is of all the others, and no group of its own."""

    def rows(self, columns: Columns) -> list[NDArray[np.bool_]]:
        """Of each group, which rows it has; a job is in exactly one."""
        numbers = self.number(columns)
        return [numbers == group for group in range(len(self.names))]


def grouping(by: str | By, tables: Iterable[Columns]) -> Grouping:
    """tables: the records of all runs that are compared. Raises ValueError where they tell nothing of the kind."""
    by, tables = By.parse(by), list(tables)
    return _named(by, tables) if by.kind in NAMES else _binned(by, tables)


def group_summaries(
    columns: Columns,
    groups: Grouping,
    *,
    horizon_s: float,
    warmup_s: float = 0.0,
    slo: Slo | None = None,
    window: tuple[float, float] | None = None,
) -> list[Summary]:
    """summarise() of each group of one run's jobs, with the run's own warm-up and window of rates, so that the rates of
    the groups sum to the run's. `saturated` is None: a group is no queue.
    """
    span = window or rate_window(columns, horizon_s=horizon_s, warmup_s=warmup_s)
    start = float(columns["arrival"].min()) + warmup_s if len(columns["arrival"]) else 0.0
    counted = (columns["arrival"] >= span[0]) & (columns["arrival"] <= span[1])
    per_arrival = _arrival_rate(columns["arrival"][counted])  # a share of the run's: few jobs have no gaps of their own
    found = []
    for rows in groups.rows(columns):
        mine = {name: column[rows] for name, column in columns.items()}
        summary = summarise(mine, horizon_s=horizon_s, slo=slo, window=span, start_s=start)
        came = int(np.count_nonzero(rows & counted))
        found.append(summary | {"saturated": None, "arrival_rps": per_arrival * came if per_arrival else None})
    return found


def _arrival_rate(arrival: NDArray[np.float64]) -> float | None:
    """`arrival_rps` of these jobs, for each of them; None where they all come at once."""
    lasted = float(arrival.max() - arrival.min()) if len(arrival) else 0.0
    return (len(arrival) - 1) / lasted / len(arrival) if lasted > 0 else None


def horizon_of(columns: Columns) -> float:
    """s: when observation ended, from the records: the last end, or as far as an unfinished job's time goes."""
    open_ = is_outcome(columns["finish"], "unfinished")
    until = [columns["end"], (columns["arrival"] + columns["jct_from_arrival"])[open_]]
    known = np.concatenate([values[np.isfinite(values)] for values in until])
    return float(known.max()) if len(known) else 0.0


def _named(by: By, tables: Sequence[Columns]) -> Grouping:
    column, several = NAMES[by.kind]

    def values(table: Columns) -> list[Any]:
        if by.kind == "priority":
            return list(table[column].tolist())
        texts = table[column].tolist() if column in table else [""] * len(table["id"])
        return [COPY.sub("", text) for text in texts]  # a program that a seed draws twice is one

    counts = Counter[Any]()
    for table in tables:
        counts.update(values(table))
    if not any(counts):  # neither a name nor a priority but 0
        raise ValueError(
            f"by: {by.kind}: no job of this run tells its {by.kind}, so there are no {several} to group by"
        )
    nameless = counts.pop("", 0)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    assert by.parts is not None
    largest = ranked[: by.parts]
    if by.kind == "priority":
        largest.sort()
    others = len(ranked) - len(largest)
    names = [str(name) for name in largest]
    names += [f"no {by.kind}"] if nameless else []
    if others:
        names.append(f"the other {others:,} {several}" if others > 1 else f"the other {by.kind}")
    numbers = {name: number for number, name in enumerate(largest)} | ({"": len(largest)} if nameless else {})

    def number(table: Columns) -> NDArray[np.int64]:
        return np.array([numbers.get(name, len(names) - 1) for name in values(table)], np.int64)

    some = f"the {len(largest):,} {several} with the most jobs, and the others together" if others else f"all {several}"
    return Grouping(by, f"by {by.kind}: {some}", names, number, rest=others > 0)


def _binned(by: By, tables: Sequence[Columns]) -> Grouping:
    column, whose = LENGTHS[by.kind]
    tokens = np.concatenate([table[column] for table in tables]) if tables else np.empty(0, np.int64)
    if not len(tokens):
        raise ValueError(f"by: {by.kind}: there is no job to group")
    low, high = int(tokens.min()), int(tokens.max())
    if by.parts is None:
        doubled = [2**power - 1 for power in range(int(math.log2(LEAST)), high.bit_length())]
        upper = [*(edge for edge in doubled if low <= edge < high), high]
        how = "between powers of two"
    else:
        shares = [part / by.parts for part in range(1, by.parts)]
        found = np.quantile(tokens, shares, method="inverted_cdf") if shares else []
        upper = [*sorted({int(edge) for edge in found if edge < high}), high]
        how = f"in {len(upper)} parts of about equally many jobs" if len(upper) > 1 else "all alike"
    lower = [low, *(edge + 1 for edge in upper[:-1])]
    names = [
        f"{a:,} token{'s' * (a != 1)}" if a == b else f"{a:,}-{b:,} tokens" for a, b in zip(lower, upper, strict=True)
    ]
    edges = np.array(upper)

    def number(table: Columns) -> NDArray[np.int64]:
        return np.minimum(np.searchsorted(edges, table[column], side="left"), len(edges) - 1)

    delivered = " that was delivered" if by.kind == "length" else ""
    return Grouping(by, f"by {by.kind}: tokens of the {whose}{delivered}, {how}", names, number)
