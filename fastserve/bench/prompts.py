"""Random prompts of a given number of tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import numpy as np

from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import IntArray

USUAL_IDS = (100, 1000)
"""Token ids from 100 up to 999 are ordinary text in nearly every vocabulary of unknown size."""

LETTER_IDS = (97, 123)
"""Letters where ids are bytes, and something else that is ordinary where they are not."""

MADE_UP = 1 << 32
"""No model has a vocabulary beyond this: a server in front of another one counts pieces of text by ids of its own."""

Count = Callable[[str], int]
"""text -> number of tokens."""


class Prompts(Protocol):
    """The prompt of a request; the same for the same seed, index and length."""

    def make(self, index: int, tokens: int) -> IntArray | str: ...


class IdPrompts:
    """Token ids drawn uniformly from low up to high - 1: lengths are exact on any server that takes ids."""

    def __init__(self, low: int, high: int, seed: int = 0) -> None:
        if not 0 <= low < high:
            raise ValueError(f"token ids from {low} up to {high - 1}: the range is empty")
        self.low, self.high, self.seed = low, high, seed

    def make(self, index: int, tokens: int) -> IntArray:
        drawn: IntArray = np.random.default_rng(seed_sequence(self.seed, index)).integers(self.low, self.high, tokens)
        return drawn


def ids_of(vocab_size: int | None) -> tuple[int, int]:
    """(low, high) for IdPrompts: the middle of a known vocabulary, whose ends hold special tokens; else USUAL_IDS, and
    LETTER_IDS where it is made up.
    """
    if vocab_size is None:
        return USUAL_IDS
    if vocab_size >= MADE_UP:
        return LETTER_IDS
    margin = vocab_size // 8
    return margin, max(margin + 1, vocab_size - margin)


class TextPrompts:
    """Words of random letters, trimmed to the length by `count`; `inexact` counts prompts of another length.

    Without `count`, a prompt has as many words as requested tokens.
    """

    def __init__(self, count: Count | None, seed: int = 0) -> None:
        self.count = count
        self.seed = seed
        self.inexact = 0
        self._letters = 4.0  # per token, as far as known

    def make(self, index: int, tokens: int) -> str:
        source = random.Random(f"{self.seed}:{index}")
        if self.count is None:
            self.inexact += 1
            return " ".join([_word(source) for _ in range(tokens)])
        text = _words(source, int(self._letters * tokens) + 1)
        best, low, high = "", 0, 0  # letters known to be too few, and too many (0: none is)
        size = len(text)
        for _ in range(40):
            text += _words(source, size - len(text)) if size > len(text) else ""
            found = self.count(text[:size])
            self._letters = size / max(1, found)
            if found == tokens:
                return text[:size]
            if found < tokens:
                best, low = text[:size], size
            else:
                high = size
            if high and high - low <= 1:
                break
            guess = round(size + (tokens - found) * self._letters)
            inside = low + 1 <= guess <= high - 1 if high else guess > low
            size = guess if inside else (low + high) // 2 if high else low + max(1, tokens - found)
        self.inexact += 1
        return best or text[:1]


def _word(source: random.Random) -> str:
    return "".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 7)))


def _words(source: random.Random, letters: int) -> str:
    """At least so many letters, spaces included."""
    text = ""
    while len(text) < letters:
        text += _word(source) + " "
    return text
