"""Sessions: when each request of a trace comes, though what a client sends next depends on when it was answered.

A program is requests of which some wait for others: an agent's turns, a conversation, a fork and join of subagents.
What it asks never depends on a policy, only when. Sans-IO: the driver says what ended and when, and is told what comes
and when; it keeps the clock. Simulator, bench client and playback on an engine use the same object.

Roots of a program (rows that wait for nothing) keep their recorded distances from its first one, however it begins.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from fastserve.workload.arrivals import arrival_times
from fastserve.workload.programs import groups, turns_of
from fastserve.workload.seed import seed_sequence
from fastserve.workload.session_settings import SessionSettings
from fastserve.workload.trace import NS, Trace

__all__ = ["Program", "SessionSettings", "Sessions"]


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    """As in the trace; "" for a request that belongs to none."""
    rows: list[int]
    """Of the trace, rising."""
    order: int
    """Its place in the order in which programs begin, from 0."""


class Sessions:
    """One run of a trace. seed: of the Poisson process, and other than 0 permutes the programs of `sessions` and
    `program_rate`; the same for every policy.
    """

    def __init__(self, trace: Trace, settings: SessionSettings | None = None, seed: int = 0) -> None:
        self.settings = settings or SessionSettings()
        self.programs = _programs(trace, self._permutes, seed)
        """In the order in which they begin."""
        self.abandoned: list[int] = []
        """Rows that never come, because of how one ended that they wait for."""
        self._home = [0] * len(trace)
        for program in self.programs:
            for row in program.rows:
                self._home[row] = program.order
        self._left = [len(program.rows) for program in self.programs]  # rows that have neither ended nor been abandoned
        self._over = bytearray(len(trace))
        self._arrival: list[int] = trace.arrival.tolist()
        self._think = self.settings.think(trace)
        self._seed = seed
        self._recorded = trace.after
        self._turns = turns_of(trace)
        self._after = trace.after if trace.after is not None and not self.settings.open_loop else None
        self._awaits = [] if self._after is None else [len(set(before)) for before in self._after]
        self._followers: dict[int, list[int]] = defaultdict(list)
        for row, before in enumerate(self._after or ()):
            for other in set(before):
                self._followers[other].append(row)
        self._next = 0  # the program that begins when one has ended

    @property
    def _permutes(self) -> bool:
        return self.settings.sessions is not None or self.settings.program_rate is not None

    def begin(self) -> list[tuple[int, int]]:
        """(row, ns) of all arrivals that are known at the start, by time and row. Called once, before anything else."""
        if self.settings.sessions is not None:
            first = self.programs[: self.settings.sessions]
            self._next = len(first)
            return sorted([come for program in first for come in self._roots(program, 0)], key=_when)
        self._next = len(self.programs)
        if self.settings.program_rate is not None:
            seed = seed_sequence(self._seed)
            times = arrival_times("poisson", len(self.programs), self.settings.program_rate, seed).tolist()
            starts = zip(self.programs, times, strict=True)
            return sorted([come for program, at in starts for come in self._roots(program, at)], key=_when)
        return [(row, at) for row, at in enumerate(self._arrival) if self._after is None or not self._after[row]]

    def ended(self, row: int, now: int, ok: bool = True) -> list[tuple[int, int]]:
        """What comes because this row ended at `now`, ns: (row, ns) by time and row, none before `now`.

        ok: False if it was refused, truncated or cancelled, or its client gave up: then all that waits for it, directly
        or not, is abandoned. In a closed loop the next program begins when nothing of this one is left.
        """
        if self._over[row]:
            raise ValueError(f"row {row} has ended already, or was abandoned")
        home = self._home[row]
        self._end(row)
        come: list[tuple[int, int]] = []
        for follower in self._followers.get(row, ()):
            if self._over[follower]:
                continue
            if not ok:
                self._abandon(follower)
                continue
            self._awaits[follower] -= 1
            if not self._awaits[follower]:
                come.append((follower, now + self._think[follower]))
        if not self._left[home] and self._next < len(self.programs):
            come += self._roots(self.programs[self._next], now)
            self._next += 1
        come.sort(key=_when)
        return come

    @property
    def patience(self) -> int | None:
        """ns after its arrival at which a request without a token is given up by its client; None: never."""
        limit = self.settings.client_timeout
        return None if limit is None else round(limit * NS)

    @property
    def repeats(self) -> list[tuple[int, ...]] | None:
        """Of an open loop: by row those that it repeats, whether they have been answered or not; else None."""
        return self._recorded if self.settings.open_loop else None

    @property
    def turns(self) -> list[int]:
        """By row its place among its program's, from 1; 0 where it has none."""
        return self._turns

    @property
    def names(self) -> list[str]:
        """Of the programs, in the order in which they begin."""
        return [program.name for program in self.programs]

    @property
    def members(self) -> list[list[int]]:
        """Their rows, in the same order."""
        return [program.rows for program in self.programs]

    def program_of(self, row: int) -> Program:
        return self.programs[self._home[row]]

    def is_last(self, row: int) -> bool:
        """Whether nothing of its program is left but what has ended or was abandoned, once this row has ended."""
        return self._left[self._home[row]] == (0 if self._over[row] else 1)

    def _end(self, row: int) -> None:
        self._over[row] = 1
        self._left[self._home[row]] -= 1

    def _abandon(self, row: int) -> None:
        doomed = [row]
        while doomed:
            row = doomed.pop()
            if not self._over[row]:
                self._end(row)
                self.abandoned.append(row)
                doomed += self._followers.get(row, ())

    def _roots(self, program: Program, at: int) -> list[tuple[int, int]]:
        """Of a program that begins at `at`, ns."""
        rows = [row for row in program.rows if self._after is None or not self._after[row]]
        first = self._arrival[rows[0]]
        return [(row, at + self._arrival[row] - first) for row in rows]


def _when(come: tuple[int, int]) -> tuple[int, int]:
    return come[1], come[0]


def _programs(trace: Trace, permutes: bool, seed: int) -> list[Program]:
    found = groups(trace)
    if permutes and seed:
        order = np.random.default_rng(seed_sequence(seed)).permutation(len(found))
        found = [found[i] for i in order.tolist()]
    names = trace.program or [""] * len(trace)
    return [Program(names[rows[0]], rows, order) for order, rows in enumerate(found)]
