"""Hits: of the prefills begun lately, how many tokens were there already."""

from __future__ import annotations

from bisect import bisect_right

KEPT = 1 << 16
"""Prefills that are remembered at least."""


class Hits:
    """Running sums, so that a window costs two looks."""

    __slots__ = ("asked", "at", "found")

    def __init__(self) -> None:
        self.at: list[int] = []  # ns: when each prefill began
        self.found = [0]  # tokens, of all before it
        self.asked = [0]

    def begun(self, now: int, found: int, asked: int) -> None:
        """A prefill of `asked` tokens has begun, of which `found` were there."""
        self.at.append(now)
        self.found.append(self.found[-1] + found)
        self.asked.append(self.asked[-1] + asked)
        if len(self.at) >= 2 * KEPT:
            del self.at[:KEPT], self.found[:KEPT], self.asked[:KEPT]

    def since(self, then: int) -> tuple[int, int]:
        """(found, asked) of those begun after `then` (ns)."""
        first = bisect_right(self.at, then)
        return self.found[-1] - self.found[first], self.asked[-1] - self.asked[first]
