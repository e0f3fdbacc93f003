"""What draft models of every body have in common: how much memory, how much text at once, and which vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

CATCH_UP: Final = 512
"""Tokens of texts that an iteration reads at most, beside the few that each job got since the last one."""

SHARE: Final = 16
"""Its pool takes at most this part of the free memory, and MOST bytes."""

MOST: Final = 2 << 30


class Named(Protocol):
    """A loaded model. tokenizer: with get_vocab(), or None."""

    @property
    def name(self) -> str: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def vocab_size(self) -> int: ...


def check_vocabulary(draft: Named, target: Named) -> None:
    """Raises ValueError where a token of the one is not the same token of the other."""
    ours, theirs = target.tokenizer, draft.tokenizer
    if ours is not None and theirs is not None:
        same = ours.get_vocab() == theirs.get_vocab()
    else:
        same = draft.vocab_size == target.vocab_size
    if not same:
        raise ValueError(
            f"speculate: the draft model {draft.name} has another vocabulary ({draft.vocab_size} tokens) than "
            f"{target.name} ({target.vocab_size} tokens), so its guesses would mean something else: take a smaller "
            "model of the same family, or ngram:K"
        )


def pool_tokens(free: int, bytes_per_token: int, most: int) -> int:
    """Tokens of its pool, at most so many. free: bytes of the memory that it is in."""
    return min(most, min(free // SHARE, MOST) // bytes_per_token)


def part(prompt: Sequence[int], tokens: Sequence[int], first: int, end: int) -> list[int]:
    """first:end of both together."""
    size = len(prompt)
    return [*prompt[first:end], *tokens[max(0, first - size) : max(0, end - size)]]
