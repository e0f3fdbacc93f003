"""Rounds of coding sessions as TraceLab records them (JSON lines), and as it exports them for simulators (CSV).

A round tells how many tokens of its prompt were found in a cache, but not which. What it repeats is taken to be the
beginning of the round before it, and in the first round of a session that of a stream which all sessions of one user,
provider and project share; block ids are made so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np

from fastserve.workload.reader.formats import plain
from fastserve.workload.reader.parse import Cells, Fixed, is_absent
from fastserve.workload.reader.table import Table, Tables

BLOCK: Final = 64
"""Tokens of a block whose id is made here."""

ROWS: Final = 1024
"""Rows of a part: their ids are lists for a moment."""

_MADE = ("hash_ids", "block_size", "after", "request")
RECORDED: Final = ("session_id", "timing_events", "input_tokens_total", "output_tokens", "gap", "tools", "user", *_MADE)
EXPORTED: Final = ("session_id", "arrival_time", "prefix_len + input_len", "output_len", "tool_wait_after_ms", *_MADE)
"""Columns as they are given on."""


def holds_rounds(names: Sequence[str]) -> bool:
    """Whether rows with these columns are rounds of either kind."""
    found = {plain(name) for name in names}
    recorded = {"sessionid", "prefixtokens", "newlyappendtokens", "outputtokens"} <= found
    return recorded or (
        {"roundidx", "prefixlen", "inputlen", "outputlen"} <= found and bool(found & {"sessionid", "id"})
    )


class _Round(NamedTuple):
    session: str
    turn: int
    place: int
    """In the file or files."""
    prefix: int
    total: int
    output: object
    start: int | None
    """ns since 1970, or since the trace began."""
    end: int | None
    wait: int
    """ns that its tools took."""
    tool: str
    user: str
    stream: str
    """Of sessions that may begin with the same tokens."""
    path: str
    line: int


class Rounds:
    """Rows in order of session and round. files: opens the files that hold them, one after another."""

    def __init__(self, files: Callable[[], Iterator[Tables]], recorded: bool) -> None:
        self.names = list(RECORDED if recorded else EXPORTED)
        self.recorded = recorded
        self.notes: list[str] = []
        self._files = files
        self._fresh = count()
        self._first: int | None = None  # ns: the earliest start
        self._streams: dict[str, list[int]] = defaultdict(list)

    def tables(self, wanted: Mapping[str, bool]) -> Iterator[Table]:
        rounds: list[_Round] = []
        broken = []
        for opened in self._files():
            for table in opened.tables(dict.fromkeys(opened.names, False)):
                rounds += self._rounds(table, len(rounds))
                broken += table.broken
        if broken:
            yield Table(rounds[0].path if rounds else "", self.names, [[] for _ in self.names], [], broken)
        places: dict[str, int] = {}
        for one in rounds:
            places.setdefault(one.session, len(places))
        rounds.sort(key=lambda one: (places[one.session], one.turn, one.place))
        self._first = min((one.start for one in rounds if one.start is not None), default=None)
        self.notes.append(
            f"block ids of {BLOCK} tokens are made of the tokens that a round repeats: those of the beginning of the "
            "round before it"
        )
        before: _Round | None = None
        ids: list[int] = []
        part: list[tuple[_Round, list[int], _Round | None]] = []
        for one in rounds:
            before = before if before is not None and before.session == one.session else None
            ids = self._ids(one, before, ids)
            part.append((one, ids, before))
            before = one
            if len(part) == ROWS:
                yield from self._parts(part)
                part = []
        yield from self._parts(part)

    def _rounds(self, table: Table, before: int) -> Iterator[_Round]:
        cells = {plain(name): table.get(name) for name in table.names}
        for row, line in enumerate(table.lines):
            yield self._round({name: column[row] for name, column in cells.items()}, before + row, table.path, line)

    def _round(self, row: Mapping[str, Any], place: int, path: str, line: int) -> _Round:
        session = str(row.get("sessionid", row.get("id")))
        if not self.recorded:
            prefix, more = _whole(row["prefixlen"]), _whole(row["inputlen"])
            start = _ms(row.get("arrivaltime"))
            wait = _ms(row.get("toolwaitafterms")) or 0
            turn = _whole(row["roundidx"])
            total = prefix + more
            return _Round(
                session, turn, place, prefix, total, row["outputlen"], start, None, wait, "", "", session, path, line
            )
        prefix, more = _whole(row["prefixtokens"]), _whole(row["newlyappendtokens"])
        total = _whole(row.get("inputtokenstotal")) or prefix + more
        events = [at for one in _objects(row.get("timingevents")) if (at := _moment(one.get("timestamp"))) is not None]
        tools = sorted(_objects(row.get("tools")), key=lambda tool: -(_ms(tool.get("tool_wall_latency_ms")) or 0))
        provider = str(row.get("provider") or "")
        return _Round(
            f"{provider}:{session}" if provider else session,
            _whole(row.get("roundindex")),
            place,
            prefix,
            total,
            row["outputtokens"],
            min(events, default=None),
            max(events, default=None),
            max([_ms(tool.get("tool_wall_latency_ms")) or 0 for tool in tools], default=0),
            str(tools[0].get("tool_name") or "") if tools else "",
            str(row.get("user") or ""),
            "|".join([provider, *(str(row.get(name) or "") for name in ("user", "project"))]),
            path,
            line,
        )

    def _ids(self, one: _Round, before: _Round | None, ids: list[int]) -> list[int]:
        """Of its full blocks. ids: of the round before it."""
        repeated, whole = min(one.prefix, one.total) // BLOCK, one.total // BLOCK
        kept = ids[:repeated]
        if before is None:
            stream = self._streams[one.stream]
            while len(stream) < repeated:
                stream.append(next(self._fresh))
            kept = stream[:repeated]
        return kept + [next(self._fresh) for _ in range(whole - len(kept))]

    def _parts(self, part: list[tuple[_Round, list[int], _Round | None]]) -> Iterator[Table]:
        if not part:
            return
        scale = 1 if self.recorded else 1000  # a Fixed is 1e-9 of the column's unit
        columns: list[Cells] = [
            [one.session for one, _, _ in part],
            [self._start(one, before) for one, _, before in part],
            [one.total for one, _, _ in part],
            [one.output for one, _, _ in part],
            Fixed(np.array([_think(one, before) * scale for one, _, before in part], np.int64)),
            *([[one.tool for one, _, _ in part], [one.user for one, _, _ in part]] if self.recorded else []),
            [ids for _, ids, _ in part],
            [BLOCK] * len(part),
            [[] if before is None else [_name(before)] for _, _, before in part],
            [_name(one) for one, _, _ in part],
        ]
        yield Table(part[0][0].path, self.names, columns, [one.line for one, _, _ in part], [])

    def _start(self, one: _Round, before: _Round | None) -> object:
        """As a cell: a date or a number of ms; None where the file tells none of the round itself."""
        if not self.recorded:
            return None if one.start is None or before is not None else str(Decimal(one.start).scaleb(-6))
        start = one.start if one.start is not None or before is None else before.end
        start = self._first if start is None else start
        if start is None:
            return "0"
        return f"{datetime.fromtimestamp(start // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{start % 10**9:09d}Z"


def _name(one: _Round) -> str:
    return f"{one.session}:{one.place}"


def _think(one: _Round, before: _Round | None) -> int:
    if before is None:
        return 0
    if one.start is not None and before.end is not None:
        return max(0, one.start - before.end)
    return before.wait


def _objects(cell: object) -> list[Mapping[str, Any]]:
    return [one for one in cell if isinstance(one, Mapping)] if isinstance(cell, list) else []


def _whole(cell: object) -> int:
    """0 for nothing, or nothing that can be used: what it is needed for is found wrong elsewhere."""
    try:
        return max(0, int(str(cell)))
    except ValueError:
        return 0


def _ms(cell: object) -> int | None:
    try:
        return None if is_absent(cell) else round(float(str(cell)) * 10**6)
    except (ValueError, OverflowError):
        return None


def _moment(cell: object) -> int | None:
    """ns since 1970 of a date or of Unix seconds."""
    if is_absent(cell):
        return None
    text = str(cell)
    try:
        found = datetime.fromisoformat(text)
        whole = found.replace(tzinfo=found.tzinfo or UTC, microsecond=0).timestamp()
        return round(whole) * 10**9 + found.microsecond * 1000
    except ValueError:
        pass
    try:
        return round(float(text) * 10**9)
    except (ValueError, OverflowError):
        return None
