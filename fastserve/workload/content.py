"""Content: what the prompts of a trace say, as chained units, and what the answers add to them.

A file's own block ids may name a block by its content alone, count from 0 in every conversation, or come from a hash of
the text so far. Here they are chained anew: the id of a unit names its content and everything before it, so equal ids
are equal prefixes whatever the file means by its own.

The units form a tree. Its nodes are numbered as they come, so those of one continuation follow each other, and a path
is a few ranges of numbers: memory grows with distinct units and requests, never with the sum of the prompts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from itertools import chain
from math import lcm
from typing import Any

from fastserve.sched.path import Path
from fastserve.sched.units import Ids
from fastserve.workload.errors import TraceError
from fastserve.workload.requests import outputs_of
from fastserve.workload.seen import Seen
from fastserve.workload.trace import Trace

ROOT = -1
SHORT = 64
"""Units of a path that is copied, because that is quicker to read than its parts."""


class Paths:
    """A tree of units: a node's number is the id of its path from the root."""

    def __init__(self) -> None:
        self.labels: list[Any] = []  # by node: what the file calls its content
        self.starts = array("q")  # the nodes at which a continuation begins, rising; until the next one each follows
        self.parents = array("q")  # theirs
        self.branches: dict[tuple[int, Any], int] = {}  # (parent, label) of these -> node

    def add(self, node: int, labels: Sequence[Any]) -> int:
        """Goes on from this node along these labels, which are added where they are new. Returns the last node."""
        known = self.labels
        at = 0
        while at < len(labels):
            after = node + 1
            if node != ROOT and after < len(known):  # as far as the present continuation is the same
                later = bisect_right(self.starts, node)
                end = self.starts[later] if later < len(self.starts) else len(known)
                same = _alike(known, after, labels, at, min(end - after, len(labels) - at))
                node += same
                at += same
                if at == len(labels):
                    return node
            branch = self.branches.get((node, labels[at]), ROOT)
            if branch != ROOT:
                node = branch
                at += 1
                continue
            if node + 1 != len(known) or node == ROOT:
                self.branches[node, labels[at]] = len(known)
                self.starts.append(len(known))
                self.parents.append(node)
            known.extend(labels[at:])
            return len(known) - 1
        return node

    def up(self, node: int, steps: int) -> int:
        """The node so many steps above; ROOT beyond the first."""
        while steps > 0 and node != ROOT:
            at = bisect_right(self.starts, node) - 1
            start = self.starts[at]
            if node - steps >= start:
                return node - steps
            steps -= node - start + 1
            node = self.parents[at]
        return node

    def ranges(self, node: int, last: int) -> list[range]:
        """The last so many nodes of the path to this one, the deepest range first."""
        found = []
        while last > 0:
            at = bisect_right(self.starts, node) - 1
            start = max(self.starts[at], node - last + 1)
            found.append(range(start, node + 1))
            last -= node + 1 - start
            node = self.parents[at]
        return found

    def ids(self, node: int, last: int) -> Ids:
        """The last so many ids of the path to this node, in order."""
        ranges = self.ranges(node, last)
        if len(ranges) == 1:
            return ranges[0]
        ranges.reverse()
        return tuple(chain.from_iterable(ranges)) if last <= SHORT else Path(tuple(ranges))

    def straightened(self) -> tuple[Paths, array[int]]:
        """The same tree, its nodes numbered so that each is followed by the first that went on from it; and by what the
        numbers of each continuation have risen, by its place in `starts`. Labels are left behind.
        """
        starts, parents = self.starts, self.parents
        ends = [start - 1 for start in starts[1:]] + [len(self.labels) - 1]
        at_end = {end: at for at, end in enumerate(ends)}
        following: dict[int, int] = {}  # continuation -> the one that goes on where it ends
        for at, parent in enumerate(parents):
            before = at_end.get(parent)
            if before is not None and before not in following:
                following[before] = at
        follows = set(following.values())
        rise = array("q", bytes(8 * len(starts)))
        other = Paths()
        node = 0
        for head in range(len(starts)):
            if head in follows:
                continue
            other.starts.append(node)
            other.parents.append(head)  # for now; its parent's new number may not be known yet
            next_one: int | None = head
            while next_one is not None:
                rise[next_one] = node - starts[next_one]
                node += ends[next_one] + 1 - starts[next_one]
                next_one = following.get(next_one)
        for i, head in enumerate(other.parents):
            parent = parents[head]
            other.parents[i] = ROOT if parent == ROOT else parent + rise[bisect_right(starts, parent) - 1]
        return other, rise


def _alike(known: list[Any], after: int, labels: Sequence[Any], at: int, most: int) -> int:
    """How many of known[after:] and labels[at:] are equal, of at most so many."""
    if known[after : after + most] == labels[at : at + most]:
        return most
    for i in range(most):
        if known[after + i] != labels[at + i]:
            return i
    return most


class Content:
    """By row of a trace. unit: tokens of a unit."""

    def __init__(self, unit: int, paths: Paths, ends: array[int], units: array[int]) -> None:
        self.unit = unit
        self.paths = paths
        self._ends = ends  # the last unit that the prompt fills, and how many it does
        self._units = units
        self._answers: dict[int, tuple[int, int]] = {}  # the same of the answer, where that is known
        self.distinct = 0  # units of all prompts, each counted once
        self._found: list[int] = []  # see found()

    def __len__(self) -> int:
        return len(self._ends)

    def prompt(self, row: int) -> Ids:
        """The ids of the units that its prompt fills."""
        return self.paths.ids(self._ends[row], self._units[row])

    def answer(self, row: int) -> Ids:
        """The ids of those that prompt and answer fill beyond them; empty where nothing tells what it says."""
        end, units = self._answers.get(row, (ROOT, 0))
        return self.paths.ids(end, units)

    def repeats(self, row: int, earlier: int, tokens: list[int], outputs: list[int], programs: list[str]) -> bool:
        """Does this row, which repeats all units of an earlier one, go on with its answer? Then that is known."""
        if programs[row] != programs[earlier] or tokens[row] < tokens[earlier] + outputs[earlier]:
            return False
        more = self._units[row] - self._units[earlier]
        filled = min(more, (tokens[earlier] + outputs[earlier] - 1) // self.unit - self._units[earlier])
        self._answers[earlier] = self.paths.up(self._ends[row], more - filled), filled
        return True

    def straighten(self) -> None:
        """When all is known: numbers the units so that a conversation is one range of them."""
        self.distinct = len(self.paths.labels)
        paths, rise = self.paths.straightened()
        starts = self.paths.starts
        for row, end in enumerate(self._ends):
            if end != ROOT:
                self._ends[row] = end + rise[bisect_right(starts, end) - 1]
        for row, (end, units) in self._answers.items():
            self._answers[row] = end + rise[bisect_right(starts, end) - 1], units
        self.paths = paths

    def hit_rate(self, trace: Trace) -> float:
        """Share of the trace's prompt tokens that an unlimited cache would find, were each request answered before the
        next one comes; its newest token is always computed.
        """
        tokens: list[int] = trace.prompt.tolist()
        return sum(self.found(tokens)) / sum(tokens)

    def found(self, tokens: Sequence[int]) -> list[int]:
        """By row: prompt tokens that this unlimited cache would find. tokens: of the prompts."""
        if not self._found:
            seen = Seen(self.distinct)
            for row, n in enumerate(tokens):
                path = self.prompt(row)
                known = seen.leading(path)
                self._found.append(self.unit * min(known, (n - 1) // self.unit))
                seen.add(path)
                seen.add(self.answer(row))
        return self._found


def unit_of(trace: Trace, block: int, unit: int | None = None) -> int:
    """Tokens of a unit: the smallest number of the trace's blocks that is whole KV blocks of `block` tokens.

    unit: what was asked for. TraceError where there is none.
    """
    if unit is None:
        unit = lcm(block, trace.block_size)
    if unit % block or unit % trace.block_size:
        raise TraceError(
            f"units of {unit} tokens are not whole KV blocks of {block} tokens and whole blocks of {trace.block_size} "
            f"tokens of the trace: give --prefix-tokens a multiple of both, or --block-tokens a divisor of the latter"
        )
    return unit


def content(trace: Trace, unit: int, scopes: Sequence[object] | None = None) -> Content | None:
    """None for a trace without block ids. unit: see unit_of(). scopes: by row (by default the trace's own); ids of
    different scopes never meet.

    Of a block that a prompt does not fill nothing is shared. An answer is what the first later request says there that
    repeats the whole prompt and has room for the answer; where the trace names programs, one of the same program.
    """
    if trace.hash_ids is None:
        return None
    scopes = trace.scope if scopes is None else scopes
    group = unit // trace.block_size
    paths = Paths()
    ends, units = array("q"), array("q")
    found = Content(unit, paths, ends, units)
    tokens: list[int] = trace.prompt.tolist()
    outputs = outputs_of(trace)
    programs = trace.program or [""] * len(trace)
    last: dict[object, int] = {}  # scope and program -> its last row
    unanswered: dict[int, list[int]] = {}  # the end of a prompt -> rows whose answer nobody has repeated yet
    open_ends: list[int] = []  # these ends, rising
    for row, ids in enumerate(trace.hash_ids):
        whole = min(len(ids) // group, tokens[row] // unit)
        scope = None if scopes is None else scopes[row]
        kin = scope, programs[row]
        node, done = ROOT, 0
        if kin in last:  # most prompts go on from the one before
            at = last[kin]
            done = min(whole, units[at])
            if ids[: done * group] == trace.hash_ids[at][: done * group]:
                node = paths.up(ends[at], units[at] - done)
            else:
                done = 0
        labels: list[Any] = list(ids[done:whole])
        if group > 1:
            labels = [tuple(ids[i * group : (i + 1) * group]) for i in range(done, whole)]
        if not done and labels and scope is not None:
            labels[0] = scope, labels[0]
        ends.append(paths.add(node, labels))
        units.append(whole)
        last[kin] = row
        for run in paths.ranges(paths.up(ends[row], 1), whole - 1):
            at = bisect_left(open_ends, run.start)
            while at < len(open_ends) and open_ends[at] < run.stop:
                rows = unanswered[open_ends[at]]
                left = [earlier for earlier in rows if not found.repeats(row, earlier, tokens, outputs, programs)]
                if left:
                    unanswered[open_ends[at]] = left
                    at += 1
                else:
                    del unanswered[open_ends[at]], open_ends[at]
        if whole and whole == tokens[row] // unit and (tokens[row] + outputs[row] - 1) // unit > whole:
            if ends[row] not in unanswered:
                insort(open_ends, ends[row])
            unanswered.setdefault(ends[row], []).append(row)
    found.straighten()
    return found
