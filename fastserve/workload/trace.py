"""Trace: arrivals, lengths and optional attributes of requests, as columns with one row per request."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastserve.html_table import html_table
from fastserve.workload.after import After, can_come, check_after, programs_named, taken
from fastserve.workload.block_ids import BlockIds
from fastserve.workload.errors import TraceError
from fastserve.workload.reading import Reading
from fastserve.workload.seed import seed_sequence

IntArray: TypeAlias = npt.NDArray[np.int64]

NS = 1_000_000_000
"""Nanoseconds in a second."""

_ARRAYS = ("prompt", "output", "priority", "ttft_slo", "tpot_slo", "e2e_slo", "max_tokens", "guess", "think")
_LISTS = ("client", "program", "slo_class", "hash_ids", "tool", "scope")

MOST_NAMED, LONGEST_NAMES = 4, 80
"""Clients and classes that a repr names, and the characters for that."""

BEFORE_WINDOW = "waiting for requests before the window"
WHOLE = "take or repeat whole programs (fastserve.workload.programs, or --resample blocks or pairs, which do)"


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in order of arrival (equal arrivals keep the order of the file).

    Every array is int64 of shape (n,), n >= 1. Optional columns are None when the trace does not have them at all.
    Methods return new traces and never change this one; arrivals are always counted from the first kept row.
    """

    name: str
    """Short, for tables."""
    source: str
    """The path it was read from, or the recipe that made it."""
    arrival: IntArray
    """ns since the first arrival; the first is 0."""
    prompt: IntArray
    """Prompt tokens, >= 1."""
    output: IntArray
    """True output length in tokens, >= 1; schedulers never see it."""
    client: list[str] | None = None
    """Client id; "" where a row has none."""
    program: list[str] | None = None
    """Session or agent run that the request belongs to; "" where a row has none."""
    priority: IntArray | None = None
    slo_class: list[str] | None = None
    """Class of service, a name under which results are told; "" where a row has none. Objectives are the row's own."""
    ttft_slo: IntArray | None = None
    """ns to the first token; 0 = no such target."""
    tpot_slo: IntArray | None = None
    """ns for each later token; 0 = no such target."""
    e2e_slo: IntArray | None = None
    """ns to the last token; 0 = no such target."""
    max_tokens: IntArray | None = None
    """The client's own limit on the output; 0 = none given."""
    hash_ids: Sequence[Sequence[int]] | None = None
    """Ids of the prompt's blocks in order; equal leading ids mean a shared prefix. Of many rows, a BlockIds."""
    block_size: int = 512
    """Prompt tokens per entry of `hash_ids`."""
    guess: IntArray | None = None
    """Predicted output length in the trace, >= 1; 0 = none given."""
    after: After | None = None
    """The rows, all earlier ones, that must have ended before this one comes; () is a root, which comes by itself."""
    think: IntArray | None = None
    """ns from the last of those ends to its arrival: a tool runs, or a person reads; 0 for a root."""
    tool: list[str] | None = None
    """The tool that the answer calls, which runs during the think time of what follows; "" for none or unknown."""
    scope: list[str] | None = None
    """Where its `hash_ids` are known: ids of different scopes never mean the same content."""
    dropped: dict[str, int] = field(default_factory=dict)
    """reason -> rows dropped, by a lenient read or by the format's own rule (`failed` in BurstGPT)."""
    reading: Reading | None = None
    """What the reader took for what; None for a trace that was made."""

    def __post_init__(self) -> None:
        n = len(self.arrival)
        if n == 0:
            raise TraceError(f"the trace {self.name!r} has no requests")
        for column in ("arrival", *_ARRAYS, *_LISTS, "after"):
            values = getattr(self, column)
            if values is None:
                continue
            if len(values) != n:
                raise TraceError(f"column {column} has {len(values)} rows, but arrival has {n}")
            if column not in _LISTS and column != "after":
                object.__setattr__(self, column, _whole(values, column))
        if self.arrival[0] != 0 or bool((np.diff(self.arrival) < 0).any()):
            raise TraceError("arrivals must start at 0 and never decrease; sort the rows, subtract the first")
        for column in ("prompt", "output"):
            if int(getattr(self, column).min()) < 1:
                raise TraceError(f"every row needs at least one {column} token")
        self._check_sessions()

    def _check_sessions(self) -> None:
        """With `after` there are think times and programs too, made where they are not given."""
        if self.after is None:
            if self.think is not None:
                raise TraceError("think times need the column `after`: which rows they count from")
            return
        if self.think is None:
            object.__setattr__(self, "think", np.zeros(len(self), np.int64))
        elif int(self.think.min()) < 0:
            raise TraceError("a think time is below 0; a request cannot come before what it waits for has ended")
        check_after(self.after, self.program)
        if self.program is None or "" in self.program:
            object.__setattr__(self, "program", programs_named(self.after, self.program))

    def __repr__(self) -> str:
        told = [f"{what} {words}" for what, words in self._told().items()]
        tokens = [
            f"{side} {column.mean():,.0f} tokens (p99 {np.percentile(column, 99):,.0f})"
            for side, column in (("prompt", self.prompt), ("output", self.output))
        ]
        return f"<Trace {self.name}: {'; '.join([self._size, *tokens, *told])}>"

    def _repr_html_(self) -> str:
        """IPython's protocol: what a notebook shows."""
        rows = [["tokens", "mean", "p50", "p90", "p99", "max"]]
        for side, column in (("prompt", self.prompt), ("output", self.output)):
            numbers = [column.mean(), *np.percentile(column, (50, 90, 99)), column.max()]
            rows.append([side, *[f"{number:,.0f}" for number in numbers]])
        below = [f"{what}: {words}" for what, words in self._told().items()]
        lines = [] if self.reading is None else self.reading.lines()
        return html_table(rows, heading=1, above=[f"{self.name}: {self._size}"], below=[*below, *lines])

    @property
    def _size(self) -> str:
        rate = f", {self.rate:.3g} requests/s" if 0 < self.rate < float("inf") else ""
        seconds = self.span / NS
        span = f"{seconds:,.0f}" if seconds >= 1000 else f"{seconds:.3g}"
        return f"{len(self):,} request{'s' if len(self) > 1 else ''} in {span} s{rate}"

    def _told(self) -> dict[str, str]:
        """What else its requests carry, in a few words."""
        found: dict[str, str] = {}
        for what, column in (("clients", self.client), ("classes", self.slo_class), ("programs", self.program)):
            names = Counter(column or ())
            names.pop("", None)
            if names:
                few = ", ".join([" ".join(name.split()) for name, _ in names.most_common(MOST_NAMED)])
                few = few if what != "programs" else ""
                more = " ..." if few and len(names) > MOST_NAMED else ""
                found[what] = f"{len(names):,}" + (f" ({few[:LONGEST_NAMES]}{more})" if few else "")
        if self.priority is not None:
            values = sorted(set(self.priority.tolist()))
            found["priorities"] = ", ".join(map(str, values)) if len(values) <= MOST_NAMED else f"{len(values):,}"
        if self.after is not None:
            found["waiting"] = f"{sum(map(bool, self.after)):,} for others"
        if self.hash_ids is not None:
            found["blocks"] = f"of {self.block_size} tokens"
        if self.dropped:
            found["dropped"] = ", ".join(f"{rows:,} {reason}" for reason, rows in self.dropped.items())
        return found

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def span(self) -> int:
        """ns from the first arrival to the last."""
        return int(self.arrival[-1])

    @property
    def rate(self) -> float:
        """Requests per second, (n - 1) / span; infinite if all arrive together, 0.0 for a single request."""
        if len(self) == 1:
            return 0.0
        return (len(self) - 1) * NS / self.span if self.span else float("inf")

    @property
    def facts(self) -> list[str]:
        """What it tells of its requests that a policy may go by: client and priority where they differ, slo, guess."""
        told = {
            "client": self.client is not None and len(set(self.client)) > 1,
            "priority": self.priority is not None and bool((self.priority != self.priority[0]).any()),
            "slo": any(column is not None and bool(column.any()) for column in (self.ttft_slo, self.e2e_slo)),
            "guess": self.guess is not None and bool(self.guess.any()),
        }
        return [name for name, is_there in told.items() if is_there]

    def head(self, n: int) -> Trace:
        """The first n requests (all of them when there are fewer). They wait for none of the others."""
        if n < 1:
            raise TraceError(f"cannot take the first {n} requests; ask for at least 1")
        return self if n >= len(self) else self.take(np.arange(n))

    def window(self, start_s: float = 0.0, duration_s: float | None = None) -> Trace:
        """Requests with start_s <= arrival < start_s + duration_s, in seconds since the first arrival of this trace.

        Those that wait for one outside, directly or not, are left out too and counted in `dropped`.
        """
        check_window(start_s, duration_s)
        start = round(Fraction(start_s) * NS)
        chosen = self.arrival >= start
        if duration_s is not None:
            chosen &= self.arrival < start + round(Fraction(duration_s) * NS)
        if chosen.all():
            return self
        if not chosen.any():
            raise TraceError(
                f"no request of {self.name!r} arrives in the window from {start_s:g} s"
                f"{'' if duration_s is None else f' for {duration_s:g} s'}; the trace lasts {self.span / NS:g} s"
            )
        index = np.flatnonzero(chosen)
        if self.after is None:
            return self.take(index)
        comes = can_come(self.after, index)
        if not comes.any():
            raise TraceError(
                f"all requests of {self.name!r} in the window from {start_s:g} s wait for requests before it; begin "
                "the window where a program begins, or take the first programs with --num-requests"
            )
        lost = len(index) - int(comes.sum())
        found = self.take(index[comes])
        return replace(found, dropped=self.dropped | {BEFORE_WINDOW: lost}) if lost else found

    def with_rate(self, rate: float) -> Trace:
        """The same requests with all gaps stretched by one factor, so that (n - 1) / span = rate (requests/s).

        Shape and CV of the gaps stay; diurnal and burst time scales move with them. A single request is returned as is.
        Think times stay as they are.
        """
        if not 0 < rate < float("inf"):
            raise TraceError(f"a rate must be a positive number of requests per second, not {rate}")
        if len(self) == 1:
            return self
        if self.span == 0:
            raise TraceError(f"all requests of {self.name!r} arrive at the same time: there are no gaps to stretch")
        span = round((len(self) - 1) * NS / Fraction(rate))
        if span > np.iinfo(np.int64).max:
            raise TraceError(f"at {rate} requests per second the trace would last longer than 292 years")
        # Python integers: the product of two spans in ns does not fit 64 bits.
        stretched = [arrival * span // self.span for arrival in self.arrival.tolist()]
        return replace(self, arrival=np.array(stretched, np.int64))

    def repaired(self, seed: int) -> Trace:
        """The same arrivals, the requests behind them permuted by `seed`; seed 0 is this trace itself.

        How one recorded trace yields further seeds with common arrivals. The order inside a program or a client is
        permuted as well.
        """
        if seed == 0:
            return self
        if self.after is not None:
            raise TraceError(f"requests of {self.name!r} wait for one another: {WHOLE}")
        order = np.random.default_rng(seed_sequence(seed)).permutation(len(self))
        return replace(self.take(order, rebase=False), arrival=self.arrival)

    def tiled(self, n: int) -> Trace:
        """Repeats the trace end to end until it has n rows; one mean gap (1 s for a single row) parts two copies."""
        if n <= len(self):
            return self.head(n)
        if self.after is not None:
            raise TraceError(f"requests of {self.name!r} wait for one another: {WHOLE}")
        gap = round(Fraction(self.span, len(self) - 1)) if len(self) > 1 else NS
        copy, row = np.divmod(np.arange(n, dtype=np.int64), len(self))
        return replace(self.take(row, rebase=False), arrival=self.arrival[row] + copy * (self.span + gap))

    def digest(self) -> str:
        """16 hexadecimal digits over all columns; name, source, `dropped` and `reading` do not count."""
        sha = hashlib.sha256()
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in ("name", "source", "dropped", "reading") or value is None:
                continue
            if entry.name == "block_size" and self.hash_ids is None:
                continue
            sha.update(f"{entry.name}\n".encode())
            if isinstance(value, np.ndarray):
                sha.update(value.astype("<i8").tobytes())
            elif entry.name == "hash_ids":
                for row, ids in enumerate(value):  # a row at a time: as one text they would be larger than the trace
                    sha.update(f"{', ' if row else '['}{json.dumps(ids)}".encode())
                sha.update(b"]")
            else:
                sha.update(json.dumps(value).encode())
        return sha.hexdigest()[:16]

    def take(self, index: npt.NDArray[np.intp] | IntArray, rebase: bool = True) -> Trace:
        """Rows by index. With rebase the index must be increasing; without it the caller sets the arrivals.

        TraceError where a row is taken that waits for one that is not.
        """
        arrival = self.arrival[index] - self.arrival[index[0]] if rebase else np.zeros(len(index), np.int64)
        changed: dict[str, Any] = {} if self.after is None else {"after": taken(self.after, index)}
        for name in (*_ARRAYS, *_LISTS):
            column = getattr(self, name)
            if isinstance(column, np.ndarray):
                changed[name] = column[index]
            elif isinstance(column, BlockIds):
                changed[name] = column.take(index)
            elif column is not None:
                changed[name] = [column[i] for i in index.tolist()]
        return replace(self, arrival=arrival, **changed)


def check_window(start_s: float, duration_s: float | None) -> None:
    """TraceError unless start_s >= 0 and duration_s > 0, both finite."""
    limit = float("inf")
    if not (0 <= start_s < limit and (duration_s is None or 0 < duration_s < limit)):
        raise TraceError(f"a window needs a start >= 0 and a length > 0, not {start_s} and {duration_s} seconds")


def _whole(values: object, column: str) -> IntArray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TraceError(f"column {column} must be one-dimensional integers, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64, copy=False)
