"""Units: KV that is named by its content, and the tree in which a device remembers it.

A unit is a whole number of KV blocks, computed to its end. Its id names its content and everything before it, so equal
ids are equal prefixes, and a path (the ids of a prompt's units, in order) tells where in the tree each of them stands.
A live job holds units from its first one on, without a gap; what is held cannot go. What nobody holds is idle: free
room that remembers. It goes when the room is taken: first what was let go first, and of what one job let go at once the
deepest. So what is found is whole from its first token. A policy may keep what a program let go: that goes after all
else, by its key; and a unit is kept as long as one that is beyond it on some path.

Neighbouring units with equal holders are one Run, so a change costs the runs on a path (one or two in a conversation)
and not its units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fastserve.sched.pins import Pins

Ids = Sequence[int]
"""A path: of each unit in order the id."""

Range = tuple[Ids, int, int]
"""The units ids[start:end] of a path."""


class Run:
    """The units ids[start:end] of a path, which the same jobs hold."""

    __slots__ = ("children", "end", "holders", "ids", "owner", "parent", "runners", "start")

    def __init__(self, ids: Ids, start: int, end: int, parent: Run | None, holders: int, runners: int) -> None:
        self.ids = ids  # of a whole path through it, from the root on
        self.start = start
        self.end = end
        self.parent = parent
        self.holders = holders  # live jobs that hold it; 0: idle
        self.runners = runners  # how many of these run
        self.children = 0
        self.owner = ""  # while it is idle: the program that let it go
        if parent is not None:
            parent.children += 1


def common(a: Ids, b: Ids, low: int, high: int) -> int:
    """How many units two paths share; at least `low`, at most `high`, both known. Takes log(high - low) looks."""
    if low == high or a is b or a[high - 1] == b[high - 1]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle
    return low


class Tree:
    """All units on the device. unit: tokens of one."""

    __slots__ = ("first", "idle", "idle_units", "lost", "pins", "unit")

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.first: dict[int, Run] = {}  # every run, by its first id
        self.idle: dict[Run, None] = {}  # held by nobody; the next to go first, but for what is kept
        self.pins = Pins()
        self.idle_units = 0
        self.lost: list[Range] = []  # gone since the last plan, which have not been told yet

    def whole(self, ids: Ids, tokens: int) -> int:
        """How many units of this path so many tokens fill."""
        return min(len(ids), tokens // self.unit)

    def walk(self, ids: Ids, most: int) -> tuple[list[Run], int]:
        """The runs along this path, and how many of its first `most` units they give."""
        first = self.first
        path: list[Run] = []
        at = 0
        while at < most:
            run = first.get(ids[at])
            if run is None:
                break
            path.append(run)
            end = min(run.end, most)
            at = common(ids, run.ids, at + 1, end)
            if at < end:
                break
        return path, at

    def found(self, ids: Ids, tokens: int) -> int:
        """Tokens of this path that are there, of at most so many."""
        return self.walk(ids, self.whole(ids, tokens))[1] * self.unit

    def cut(self, ids: Ids, at: int, upto: int) -> Run | None:
        """The run that begins with ids[at], split so that all of it is on this path and ends at `upto` at the latest.

        What begins with ids[at] from here on is the upper part; the place of an idle run in the order stays with the
        lower part, and whoever asks takes the upper one.
        """
        run = self.first.get(ids[at])
        if run is not None:
            end = common(ids, run.ids, at + 1, min(run.end, upto))
            if end < run.end:
                run = self._split(run, end)
        return run

    def _split(self, run: Run, at: int) -> Run:
        upper = Run(run.ids, run.start, at, run.parent, run.holders, run.runners)
        if run.parent is not None:
            run.parent.children -= 1
        upper.children = 1
        upper.owner = run.owner
        run.parent = upper
        run.start = at
        self.first[run.ids[upper.start]] = upper
        self.first[run.ids[at]] = run
        return upper

    def unite(self, tail: Run | None, run: Run) -> None:
        """A run and the one before it become one, if the same jobs hold both and nothing else follows the latter."""
        if tail is not None and tail.children == 1 and tail.holders == run.holders and tail.runners == run.runners:
            del self.first[run.ids[run.start]]
            run.start = tail.start
            run.parent = tail.parent
            self.first[run.ids[run.start]] = run

    def leave_behind(self, ids: Ids, held: int, tail: Run | None, whole: int, owner: str) -> None:
        """The units from `held` to `whole` of a path are there, and idle: a job that holds those before has ended.

        tail: the run that ends at `held`. To be called before the job lets go of the rest.
        """
        if held >= whole:
            return
        if self.lost:
            self.keep(ids, whole)
        if ids[held] not in self.first and tail is not None and tail.holders == 1 and tail.children == 0:
            tail.ids = ids
            tail.end = whole
            return
        behind: list[Run] = []
        at = held
        while at < whole:
            run = self.cut(ids, at, whole)
            if run is None:
                run = self.first[ids[at]] = Run(ids, at, whole, tail, 0, 0)
                self.idle_units += whole - at
            if run.holders == 0:
                behind.append(run)
            tail = run
            at = run.end
        for run in reversed(behind):
            self.idle.pop(run, None)
            self.idle[run] = None
            run.owner = owner

    def keep(self, ids: Ids, whole: int) -> None:
        """Of what has gone and not been told yet, these units are there again."""
        kept = []
        for others, start, end in self.lost:
            if others[0] == ids[0]:
                start = max(start, common(ids, others, 0, min(end, whole)))
            if start < end:
                kept.append((others, start, end))
        self.lost = kept

    def shrink(self, units: int) -> list[Range]:
        """So many of the idle go, and are returned in the order in which they do."""
        gone: list[Range] = []
        idle = self.idle
        runs: Iterator[Run] | None = None
        if self.pins.of and units > 0:
            runs = iter(self._first_in_order(units))
        while units > 0:
            run = next(iter(idle)) if runs is None else next(runs)
            n = min(units, run.end - run.start)
            units -= n
            gone.append((run.ids, run.end - n, run.end))
            self._shorten(run, n)
        return gone

    def evict(self, going: Iterable[Range]) -> None:
        """These idle units go, each range the deepest first."""
        for ids, start, end in going:
            while start < end:
                run = self.walk(ids, end)[0][-1]
                n = min(run.end, end) - max(run.start, start)
                end -= n
                self._shorten(run, n)

    def _shorten(self, run: Run, n: int) -> None:
        """The last n units of an idle run go."""
        self.idle_units -= n
        run.end -= n
        if run.end == run.start:
            del self.idle[run]
            del self.first[run.ids[run.start]]
            if run.parent is not None:
                run.parent.children -= 1

    def _first_in_order(self, units: int) -> list[Run]:
        """The idle runs that hold the first so many units to go."""
        runs: list[Run] = []
        for run in self.in_order([(run, run.owner) for run in self.idle]):
            runs.append(run)
            units -= run.end - run.start
            if units <= 0:
                break
        return runs

    def in_order(self, going: Iterable[tuple[Run, str]]) -> Iterator[Run]:
        """These idle runs as they go where something is kept. going: with their programs, as they were let go, so that
        what is deeper on a path comes before what is above it.
        """
        kept: list[tuple[float, int, Run]] = []
        keys: dict[Run | None, float] = {}  # of runs above something kept: the greatest key
        of = self.pins.of
        at = self.pins.at
        for run, owner in going:
            pin = of.get(owner)
            key = keys.get(run)
            if pin is not None and pin[0] > at and (key is None or key < pin[1]):
                key = pin[1]
            if key is None:
                yield run
                continue
            kept.append((key, len(kept), run))
            above = keys.get(run.parent)
            if above is None or above < key:
                keys[run.parent] = key
        kept.sort()
        for _, _, run in kept:
            yield run

    def forget_idle(self) -> None:
        """All that are idle go; the next plan tells."""
        self.lost += self.shrink(self.idle_units)

    def clear(self) -> None:
        self.first.clear()
        self.idle.clear()
        self.idle_units = 0
        self.lost = []

    def idle_ids(self) -> list[int]:
        """Of the idle units, the next to go first if none is kept. Costs all of them: for audits, never for a plan."""
        return [run.ids[at] for run in self.idle for at in range(run.end - 1, run.start - 1, -1)]
