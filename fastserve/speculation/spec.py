"""Speculate: the setting `speculate`, as `off`, `ngram:K` or `draft:MODEL:K`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

OFF: Final = "off"

MOST: Final = 32
"""The most drafts of one job in one iteration: blocks are reserved for as many."""

FORMS: Final = f"{OFF}, ngram:K or draft:MODEL:K, as ngram:4 or draft:smollm2:4"


@dataclass(frozen=True, slots=True)
class Speculate:
    """Who guesses, and at most how many tokens of a job in one iteration."""

    method: Literal["ngram", "draft"]
    k: int
    model: str = ""
    """of `draft`: a name, folder, file or id, as the target's"""

    def __str__(self) -> str:
        return ":".join(filter(None, (self.method, self.model, str(self.k))))


def parse(text: str | None) -> Speculate | None:
    """None where nothing is to be guessed. ValueError, which says what it may be, for what it is not."""
    if text is None or text == OFF:
        return None
    method, _, rest = str(text).partition(":")
    model, _, number = rest.rpartition(":")
    if method not in ("ngram", "draft") or (method == "draft") != bool(model):
        raise ValueError(f"speculate={text!r} is unknown: give {FORMS}")
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= MOST):
        raise ValueError(f"speculate={text!r}: {number!r} is no number of guesses from 1 to {MOST}; give {FORMS}")
    return Speculate("ngram" if method == "ngram" else "draft", int(number), model)
