"""Programs: which program a request without one belongs to, and which are over.

A request that goes on with the text of one that has ended, prompt and answer, belongs to the same program: the one that
was named, else one that is named here after the first request. So the first turn of a conversation has none, for
nothing tells yet that more will come; and a prompt that merely begins like another is not taken for its next turn.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence

from fastserve.engine.request import Request
from fastserve.metrics.finish import COMPLETED
from fastserve.sched.units import Ids

MOST = 10_000
"""Ended requests that are remembered, and programs at rest; the latest."""

NAME = "continues-"
"""What is named here: this, and the id of the program's first request."""

End = tuple[str, int, tuple[int, ...]]
"""Of a text: its client, its last whole unit, and the tokens behind that."""


class Programs:
    """Any thread. unit: tokens of a unit; None where units have no names: then no request is another's next turn.

    A program is over when a request has said so and none of it lives; and, so that a server may run for ever, when
    `most` others that say nothing have come to rest after it.
    """

    def __init__(self, unit: int | None, most: int = MOST) -> None:
        self.unit = unit
        self.most = most
        self._lock = threading.Lock()
        self._ends: OrderedDict[End, str] = OrderedDict()  # the latest last
        self._tails: dict[tuple[str, int], Counter[int]] = {}  # how long the tokens behind a unit are
        self._of: dict[str, dict[End, None]] = {}  # by program
        self._live: Counter[str] = Counter()
        self._resting: OrderedDict[str, None] = OrderedDict()  # none of these lives; the latest last
        self._final: set[str] = set()  # nothing will follow those of these that live

    def of(self, client: str, prompt: Sequence[int], ids: Ids) -> str:
        """The program whose text this prompt goes on with; empty for none. ids: of its units."""
        with self._lock:
            for units in range(len(ids), 0, -1):
                tails = self._tails.get((client, ids[units - 1]))
                if tails is not None:
                    assert self.unit is not None
                    at = units * self.unit
                    for n in sorted(tails, reverse=True):
                        found = self._ends.get((client, ids[units - 1], tuple(prompt[at : at + n])))
                        if found is not None and at + n < len(prompt):
                            return found
        return ""

    def came(self, program: str, final: bool) -> None:
        """A request of this program will be submitted. final: nothing follows it."""
        if program:
            with self._lock:
                self._live[program] += 1
                self._resting.pop(program, None)
                if final:
                    self._final.add(program)

    def left(self, request: Request) -> list[str]:
        """A request has ended, however. Returns the programs that are over by that."""
        program = request.job.program
        with self._lock:
            if request.finish_reason in COMPLETED and not request.named:
                self._remember(request, program or f"{NAME}{request.job.id}")
            if not program:
                return []
            self._live[program] -= 1
            if self._live[program]:
                return []
            del self._live[program]
            self._resting[program] = None
            over = []
            if program in self._final:
                over.append(program)
            elif len(self._resting) > self.most:
                over.append(next(iter(self._resting)))
            for name in over:
                self._end(name)
            return over

    def end(self, program: str) -> None:
        """Its driver has said that it is over: nobody goes on with it."""
        with self._lock:
            self._end(program)

    def _end(self, program: str) -> None:
        for end in list(self._of.get(program, ())):
            self._forget(end)
        self._final.discard(program)
        self._resting.pop(program, None)

    def _remember(self, request: Request, program: str) -> None:
        units = len(request.job.ids) + len(request.answer)
        if not units:
            return
        assert self.unit is not None
        at = units * self.unit - len(request.prompt)
        tail = (*request.prompt[at:], *request.tokens[:-1]) if at < 0 else tuple(request.tokens[at:-1])
        end = request.job.client, (request.answer or request.job.ids)[-1], tail
        if end in self._ends:
            self._forget(end)
        elif len(self._ends) >= self.most:
            self._forget(next(iter(self._ends)))
        self._ends[end] = program
        self._tails.setdefault(end[:2], Counter())[len(tail)] += 1
        self._of.setdefault(program, {})[end] = None

    def _forget(self, end: End) -> None:
        program = self._ends.pop(end)
        tails = self._tails[end[:2]]
        tails[len(end[2])] -= 1
        if not tails[len(end[2])]:
            del tails[len(end[2])]
            if not tails:
                del self._tails[end[:2]]
        others = self._of[program]
        del others[end]
        if not others:
            del self._of[program]
