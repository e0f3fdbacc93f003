"""Conversations of coding agents as kv-cache-tester and SemiAnalysis record them (WEKA's kind): a JSON object each, its
requests inside.

A request comes `think_time` after the one before it, as `t` and `api_time` tell which that is. An entry of type
subagent has requests of its own: the first follows the request that called it, and what the agent asks after the
subagent has ended waits for its last one. Ids of the scope `local` are those of one conversation and its subagents.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from heapq import heappop, heappush
from typing import Any, Final

import numpy as np

from fastserve.workload.reader.formats import plain
from fastserve.workload.reader.parse import LATEST, Cells, Fixed, is_absent
from fastserve.workload.reader.table import Table, Tables

NAMES: Final = ("id", "t", "in", "out", "hash_ids", "block_size", "requests", "think_time", "stop", "hash_id_scope",
                "request")  # fmt: skip
"""Columns of the requests as they are given on: `requests` holds the names of those that each waits for."""

ROUNDED: Final = 10**9
"""ns by which an end may be late where all times are whole seconds."""


def holds_conversations(names: Sequence[str]) -> bool:
    """Whether objects with these keys are conversations."""
    found = {plain(name) for name in names}
    return "requests" in found and bool(found & {"blocksize", "hashidscope", "models", "totals"})


class Conversations:
    """Their requests as rows of a table. files: opens the files that hold them, one after another."""

    def __init__(self, files: Callable[[], Iterator[Tables]]) -> None:
        self.names = list(NAMES)
        self.notes: list[str] = []
        self._files = files
        self._known: Counter[str] = Counter()
        self._left_out = Counter[str]()

    def tables(self, wanted: Mapping[str, bool]) -> Iterator[Table]:
        for opened in self._files():
            for table in opened.tables(dict.fromkeys(opened.names, False)):
                for row, line in enumerate(table.lines):
                    conversation = {name: table.get(name)[row] for name in table.names}
                    yield self._table(conversation, table.path, line)
                if table.broken:
                    yield Table(table.path, self.names, [[] for _ in self.names], [], table.broken)
        self.notes.append(
            "no starts of conversations are told: as recorded, all begin at once; give --sessions N or --program-rate R"
        )
        if self._left_out["empty"]:
            self.notes.append(f"{self._left_out['empty']:,} requests without input tokens are left out")
        if self._left_out["silent"]:
            self.notes.append(f"{self._left_out['silent']:,} requests without output tokens count as answered with one")

    def _table(self, conversation: Mapping[str, Any], path: str, line: int) -> Table:
        name = str(conversation.get("id") or f"conversation {line}")
        self._known[name] += 1
        if self._known[name] > 1:
            name = f"{name}#{self._known[name]}"
        walk = _Walk(name)
        walk.through(_requests(conversation.get("requests")), [], 0)
        self._left_out += walk.left_out
        size = conversation.get("block_size")
        size = 64 if is_absent(size) else size
        scope = "" if str(conversation.get("hash_id_scope") or "local") == "global" else name
        n = len(walk.rows)
        first = min(walk.starts, default=0)
        columns: list[Cells] = [
            [name] * n,
            Fixed(np.array(walk.starts, np.int64) - first),
            [request.get("in") for request in walk.rows],
            [request.get("out") or 1 for request in walk.rows],
            [_ids(request, size) for request in walk.rows],
            [size] * n,
            walk.after,
            Fixed(np.array(walk.thinks, np.int64)),
            walk.tools,
            [scope] * n,
            walk.names,
        ]
        return Table(path, self.names, columns, [line] * n, [])


class _Walk:
    """The requests of one conversation in an order in which they can come."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[Mapping[str, Any]] = []
        self.names: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.after: list[list[str]] = []
        self.thinks: list[int] = []
        self.tools: list[str] = []
        self.left_out = Counter[str]()

    def through(self, requests: Sequence[Mapping[str, Any]], fork: list[int], base: int) -> list[int]:
        """Takes in these requests, of which the first wait for the rows `fork`; times before `base`, ns, count from it.
        Returns the rows that no other waits for.
        """
        timed = [(_ns(request.get("t")), request) for request in requests]
        whole = all(at is None or at % 10**9 == 0 for at, _ in timed)
        slack = ROUNDED if whole else 10**6
        last = base
        entries = []
        for at, request in timed:
            last = last if at is None else at + base if at < base else at
            entries.append((last, request))
        entries.sort(key=lambda entry: entry[0])
        running: list[tuple[int, int]] = []  # (end, row) of those that may still run
        ended: list[int] = []  # rows that have ended and that nobody waits for yet
        latest = list(fork)  # the last to have ended
        subagents: set[int] = set()
        for at, request in entries:
            while running and running[0][0] <= at + slack:
                ended.append(heappop(running)[1])
                latest = ended[-1:]
            if request.get("type") == "subagent" or "requests" in request:
                called_by = latest
                for row in called_by:
                    self.tools[row] = str(request.get("subagent_type") or "subagent")
                leaves = self.through(_requests(request.get("requests")), called_by, at)
                took = _ns(request.get("duration_ms"), 6)
                for row in leaves:
                    if row not in called_by:
                        subagents.add(row)
                        heappush(running, (max(self.ends[row], at + (took or 0)) if took else self.ends[row], row))
                continue
            if not self._served(request):
                continue
            before = sorted(ended or latest, key=lambda row: (row in subagents, row))
            think = _ns(request.get("think_time"))
            if think is None or before == fork or subagents & set(before):
                think = at - max((self.ends[row] for row in before), default=at)
            row = self._add(request, at, before, max(0, think) if before else 0)
            heappush(running, (self.ends[row], row))
            ended = []
        return sorted({row for _, row in running} | set(ended)) or latest

    def _served(self, request: Mapping[str, Any]) -> bool:
        if request.get("in") in (0, "0"):
            self.left_out["empty"] += 1
            return False
        self.left_out["silent"] += request.get("out") in (0, "0")
        return True

    def _add(self, request: Mapping[str, Any], at: int, before: list[int], think: int) -> int:
        row = len(self.rows)
        self.rows.append(request)
        self.names.append(f"{self.name}:{row}")
        self.starts.append(at)
        self.ends.append(at + (_ns(request.get("api_time")) or 0))
        self.after.append([self.names[other] for other in before])
        self.thinks.append(think)
        self.tools.append("tool_use" if request.get("stop") == "tool_use" else "")
        return row


def _requests(cell: object) -> list[Mapping[str, Any]]:
    if isinstance(cell, str):  # as some Parquet files have them
        try:
            cell = json.loads(cell)
        except ValueError:
            return []
    return [one for one in cell if isinstance(one, Mapping)] if isinstance(cell, list) else []


def _ids(request: Mapping[str, Any], size: object) -> object:
    """Without what no block of the prompt stands for."""
    ids, tokens = request.get("hash_ids"), request.get("in")
    if isinstance(ids, list) and isinstance(size, int) and isinstance(tokens, int) and size > 0:
        full = tokens // size
        return ids[: -(-tokens // size)] if len(ids) >= full else []
    return ids


def _ns(cell: object, digits: int = 9) -> int | None:
    """None for what is no time of ours; digits: of its unit above the nanosecond."""
    if is_absent(cell) or isinstance(cell, bool):
        return None
    try:
        found = Decimal(str(cell)).scaleb(digits)
    except ArithmeticError:
        return None
    return int(found) if found.is_finite() and abs(found) <= LATEST else None
