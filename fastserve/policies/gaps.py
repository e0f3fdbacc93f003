"""How long programs stay away between their turns: what has been seen so far, and what it is worth to wait for one.

The average case of ski rental. To keep something for an absent program costs `rate` for each ns; to have lost it when
the program comes back costs `lose`, once. Given how long it has been away, for how long should it be kept?

The distribution is the one of Kaplan and Meier over the last WINDOW absences: those that are not over yet count as
longer than they are now, so programs that never come back are learned too. With it counts, as PRIOR of an absence, one
of which nothing is known: of those that have lasted s ns the share s / t lasts t ns, whatever the scale of time. Where
nothing was seen, at the beginning or beyond the longest gap, the answer is then the competitive rule: to keep until it
has cost what losing costs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from math import log, sqrt

from fastserve.sched.job import NEVER

WINDOW = 256
"""Absences that count, the newest."""
PRIOR = 1.0
"""Absences of which nothing is known that are thought to be among them."""


class Absence:
    """since: ns. gap: ns, how long it was; -1 while it lasts, and for good if nobody will come back."""

    __slots__ = ("gap", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.gap = -1


class Gaps:
    """window, prior: see above."""

    def __init__(self, window: int = WINDOW, prior: float = PRIOR) -> None:
        self.window = window
        self.prior = prior
        self.order: deque[tuple[str, Absence]] = deque()
        self.away: dict[str, Absence] = {}  # those that last, by program
        self.gaps: list[int] = []  # ns, of those that are over, sorted

    def left(self, program: str, now: int) -> None:
        """None of its jobs lives any more."""
        self.away[program] = absence = Absence(now)
        self.order.append((program, absence))
        if len(self.order) > self.window:
            name, oldest = self.order.popleft()
            if oldest.gap >= 0:
                del self.gaps[bisect_left(self.gaps, oldest.gap)]
            elif self.away.get(name) is oldest:
                del self.away[name]

    def back(self, program: str, now: int) -> None:
        """It has come back, if it is known to have been away."""
        absence = self.away.pop(program, None)
        if absence is not None:
            absence.gap = now - absence.since
            insort(self.gaps, absence.gap)

    def over(self, program: str) -> None:
        """It will not come back, as it has said: it was no absence."""
        absence = self.away.pop(program, None)
        if absence is not None:
            self.order = deque([item for item in self.order if item[1] is not absence])

    def worth(self, age: int, now: int, lose: float, rate: float) -> tuple[float, int]:
        """(what is gained, until which age) by keeping on, for an absence that has lasted `age` ns; (0, age): nothing.

        gained: lose * P(back by then) - rate * E[ns until then or until it is back], the largest over all ages.
        """
        start = float(max(age, 1))
        over = [(gap, 0) for gap in self.gaps[bisect_right(self.gaps, age) :]]
        still = [(now - one.since, 1) for one in self.away.values() if now - one.since > age]
        known = risk = len(over) + len(still)  # absences that have lasted longer than `age`
        blind = self.prior * start
        stays, spent, last = 1.0, 0.0, start  # of the known ones: share that is away still, mean ns until here
        best, until = 0.0, start
        for event, lasts in [*sorted(over + still), (NEVER, 1)]:
            pays = _turns(lose * blind, rate * blind, rate * known * stays)
            if last < pays < event:
                left = known * stays + blind / pays
                cost = known * (spent + stays * (pays - last)) + blind * log(pays / start)
                gained = lose - (lose * left + rate * cost) / (known + self.prior)
                if gained > best:
                    best, until = gained, pays
            if event == NEVER:
                break
            spent += stays * (event - last)
            last = float(event)
            if not lasts:
                stays *= 1 - 1 / risk
                cost = known * spent + blind * log(last / start)
                gained = lose - (lose * (known * stays + blind / last) + rate * cost) / (known + self.prior)
                if gained > best:
                    best, until = gained, last
            risk -= 1
        return best, round(until)


def _turns(gain: float, cost: float, more: float) -> float:
    """Where gain / t**2 = cost / t + more: from there on waiting costs more than it may gain, until the next event."""
    return gain / cost if more <= 0 else (sqrt(cost * cost + 4 * gain * more) - cost) / (2 * more)


class Recent:
    """The last so many values of a kind. values: of these, sorted."""

    def __init__(self, most: int = 10_000) -> None:
        self.most = most
        self.order: deque[int] = deque()
        self.values: list[int] = []

    def add(self, value: int) -> None:
        self.order.append(value)
        insort(self.values, value)
        if len(self.order) > self.most:
            del self.values[bisect_left(self.values, self.order.popleft())]


TOOLS = 1000
"""Of which gaps are kept; of more, the one that was first heard of is forgotten."""


class ToolGaps:
    """The last so many gaps, ns, that followed each tool."""

    def __init__(self, most: int = 10_000) -> None:
        self.most = most
        self.recent: dict[str, Recent] = {}

    def add(self, tool: str, gap: int) -> None:
        if tool not in self.recent:
            if len(self.recent) >= TOOLS:
                del self.recent[next(iter(self.recent))]
            self.recent[tool] = Recent(self.most)
        self.recent[tool].add(gap)

    def of(self, tool: str) -> list[int]:
        """Sorted; empty where nothing is known of it."""
        return self.recent[tool].values if tool in self.recent else []
