"""Pins: whose cached prefixes are to stay on the device for how long, and which of them go first if they must."""

from __future__ import annotations


class Pins:
    """`at` is set by whoever is about to ask: the time for which the order is wanted."""

    __slots__ = ("at", "of")

    def __init__(self) -> None:
        self.at = 0  # ns
        self.of: dict[str, tuple[int, float]] = {}  # by program: ns until which it holds, and the key

    def keep(self, program: str, until: int, key: float | None, now: int) -> None:
        """See Policy.keep()."""
        if until > now and program:
            self.of[program] = until, until if key is None else key
        else:
            self.of.pop(program, None)

    def rank(self, owner: str) -> tuple[bool, float]:
        """The smaller goes first, as far as its own program has a say."""
        pin = self.of.get(owner)
        if pin is None or pin[0] <= self.at:
            return NO_PIN
        return True, pin[1]

    def bound(self, now: int, first: int) -> int:
        """ns: when the next of them ends, at most `first`. Those that have ended are forgotten."""
        for program, (until, _) in list(self.of.items()):
            if until <= now:
                del self.of[program]
            elif until < first:
                first = until
        return first


NO_PIN = (False, 0.0)
