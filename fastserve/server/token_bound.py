"""TokenBound: how many tokens texts have at least, by slices, so that one that is too long is never tokenized whole.

A whole text costs a hundred times its size. A slice may have a few tokens more than its share of the whole, so some are
forgiven: the bound is never above the truth in practice, and the exact count decides about what passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized

from fastserve.server.http.body_scan import Fragment

SLICE = 1 << 11
"""Characters that are tokenized at once."""

FORGIVEN = 8
"""Tokens of a slice, beside 1 in 64 and 2 of each string, that the whole may not have."""


class TokenBound:
    """tokens: of the texts so far. together: all of them are of one prompt; otherwise each string is one."""

    def __init__(self, encode: Callable[[str], Sized], together: bool) -> None:
        self.encode = encode
        self.together = together
        self.tokens = 0
        self.kept: list[str] = []
        self.characters = 0
        self.strings = 0

    def exceeds(self, fragments: Iterable[Fragment], most: int) -> bool:
        """Whether a prompt of these has more than so many tokens. Stops as soon as it is known."""
        for text, begins in fragments:
            if begins:
                if not self.together:
                    if self._counted() > most:
                        return True
                    self.tokens = 0
                self.strings += 1
                self.kept.append("\n")
            for start in range(0, len(text), SLICE):
                self.kept.append(text[start : start + SLICE])
                self.characters += len(self.kept[-1])
                if self.characters >= SLICE and self._counted() > most:
                    return True
        return self._counted() > most

    def _counted(self) -> int:
        if self.characters > FORGIVEN:
            count = len(self.encode("".join(self.kept)))
            self.tokens += max(0, count - count // 64 - FORGIVEN - 2 * self.strings)
        self.kept.clear()
        self.characters = self.strings = 0
        return self.tokens
