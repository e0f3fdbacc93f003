"""Pins: whose cached prefixes are to stay on the device for how long, and which of them go first if they must."""

from __future__ import annotations


class Pins:
    """`at` is set by whoever is about to ask: the time for which the order is wanted."""

    __slots__ = ("_first", "at", "of")

    def __init__(self) -> None:
        self.at = 0  # ns
        self._first: int | None = None  # ns: none ends before this
        self.of: dict[str, tuple[int, float]] = {}  # by program: ns until which it holds, and the key

    def keep(self, program: str, until: int, key: float | None, now: int) -> None:
        """See Policy.keep()."""
        if until > now and program:
            self.of[program] = until, until if key is None else key
            if self._first is None or until < self._first:
                self._first = until
        else:
            self.of.pop(program, None)

    def bound(self, now: int, first: int) -> int:
        """ns, at most `first`, until which none of them ends. Those that have ended are forgotten."""
        if self._first is not None and self._first <= now:
            for program in [program for program, (until, _) in self.of.items() if until <= now]:
                del self.of[program]
            self._first = min([until for until, _ in self.of.values()], default=None)
        return first if self._first is None else min(first, self._first)
