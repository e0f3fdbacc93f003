"""Detokenizer: tokens into text one at a time, never half a character, stop strings cut off.

What a token says depends on those before it: bytes make up a character together, only the first word lacks its space.
So the last tokens are decoded twice, without and with the new one, and what is new is the difference. The tokens in
hand stay few, so the cost of a token does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from fastserve.engine.params import SamplingParams

HALF: Final = "\ufffd"
"""What decoders put where bytes are no character, or not yet."""

_PENDING: Final = 16
"""Tokens without a whole character at their end that are waited with: more are no character of any tokenizer."""

_OPEN: Final = 4
"""The longest character of UTF-8 in bytes: only that many of the last tokens may still become one."""

_CONTEXT: Final = 6
"""Tokens of the prompt that the first output token is decoded with."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> Any: ...


class Alphabet:
    """What a tokenizer's tokens say. Made once for all requests: asking a tokenizer for its special tokens is slow."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
        special = {token for token, what in added.items() if what.special}
        self.special = frozenset(special.union(getattr(tokenizer, "all_special_ids", ())))
        self.decode: Callable[[list[int]], str] = _decoder(tokenizer)
        """Token ids to text, special tokens included, nothing tidied up."""

    def voice(self, params: SamplingParams, prompt: Sequence[int] = ()) -> Detokenizer:
        """What turns the tokens of a request with these parameters into text."""
        return Detokenizer(
            self,
            prompt=prompt,
            stop=params.stop,
            include_stop=params.include_stop,
            min_tokens=params.min_tokens,
            skip_special_tokens=params.skip_special_tokens,
        )


class Detokenizer:
    """The text of one request. All pieces together are tokenizer.decode(output tokens), up to the stop string.

    prompt: with it, the text is what decode(prompt + output) has after decode(prompt), so that a first word keeps its
    space; half a character at the prompt's end counts as output. min_tokens: a stop string that is complete before so
    many tokens are out is text like any other.
    """

    __slots__ = ("_count", "_decode", "_hidden", "_ids", "_least", "_said", "_stops", "_told")

    def __init__(
        self,
        alphabet: Alphabet,
        *,
        prompt: Sequence[int] = (),
        stop: Sequence[str] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
    ) -> None:
        self._decode = alphabet.decode
        self._hidden = alphabet.special if skip_special_tokens else frozenset()
        self._stops = StopStrings(stop, include_stop)
        self._least = min_tokens
        self._count = 0
        # The tokens in hand: the first _told have been told, and give those that wait behind them their context.
        self._ids, self._told = self._context([token for token in prompt if token not in self._hidden])
        self._said = self._decode(self._ids[: self._told])  # the start of their text, which is out already

    @property
    def stopped(self) -> bool:
        """A stop string is complete. Nothing more comes out."""
        return self._stops.found is not None

    @property
    def stop(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.found

    def add(self, token: int) -> str:
        """The text that may be shown now that this token has come; "" while it is held back."""
        self._count += 1
        if token in self._hidden or self.stopped:
            return ""
        self._ids.append(token)
        return self._stops.pass_on(self._fresh(), self._count >= self._least)

    def flush(self) -> str:
        """What was held back, half a character as U+FFFD included: no more tokens come."""
        if self.stopped:
            return ""
        rest = self._decode(self._ids)[len(self._said) :] if self._count else ""
        self._hold([])
        return self._stops.pass_on(rest, self._count >= self._least) + self._stops.flush()

    def _context(self, prompt: list[int]) -> tuple[list[int], int]:
        """The last tokens of the prompt, beginning with a whole character, and how many of them end with one."""
        for half in range(_OPEN):
            for length in range(_CONTEXT, _CONTEXT + _OPEN):
                ids = prompt[-length:]
                told = max(0, len(ids) - half)
                if HALF not in self._decode(ids[:told]):
                    return ids, told
        return prompt[-_CONTEXT:], min(_CONTEXT, len(prompt))  # bytes that are no characters

    def _fresh(self) -> str:
        """What the tokens in hand say that is not out yet and that no later token can change."""
        text = self._decode(self._ids)
        sure = text.rstrip(HALF)
        fresh = sure[len(self._said) :]
        waiting = len(self._ids) - self._told
        if len(sure) == len(text):
            if fresh:
                self._ids = self._ids[self._told :]
                self._told, self._said = len(self._ids), self._decode(self._ids)
            elif waiting > _PENDING:  # tokens that say nothing
                del self._ids[self._told : -_OPEN]
        elif waiting > _PENDING:
            return self._give_up(text)
        elif fresh:
            self._said = sure
        return fresh

    def _give_up(self, text: str) -> str:
        """Bytes that are no character for so long are none: all of `text` but that of the last few tokens is out.

        It is cut where the two parts say what the whole says, that is not within a character.
        """
        last = len(self._ids) - _OPEN
        for cut in range(last, last - 2 * _OPEN, -1):
            head, tail = self._ids[:cut], self._ids[cut:]
            if (told := self._decode(head)) + self._decode(tail) == text:
                break
        else:
            head, tail = self._ids[:last], self._ids[last:]
            told = self._decode(head)
        fresh = told[len(self._said) :]
        self._hold(tail)
        return fresh

    def _hold(self, ids: list[int]) -> None:
        self._ids, self._told, self._said = ids, 0, ""


def _decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # the same text as the tokenizer's own decode, at a fraction of the time
        return partial(backend.decode, skip_special_tokens=False)
    if hasattr(tokenizer, "clean_up_tokenization_spaces"):
        return partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return partial(tokenizer.decode, skip_special_tokens=False)


class StopStrings:
    """A stop string counts as soon as its last character is there, as if characters came one by one; of two that are
    complete at the same character the longer one counts. keep: leave the stop string at the end of the text.
    """

    __slots__ = ("_held", "_keep", "_longest", "_stops", "found")

    def __init__(self, stops: Sequence[str], keep: bool = False) -> None:
        self._stops = tuple(stops)
        self._keep = keep
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""  # shorter than the longest stop string
        self.found: str | None = None
        """The stop string that ended the text."""

    def pass_on(self, text: str, armed: bool = True) -> str:
        """What may be shown now that this text has come. Nothing more comes through once one is found.

        armed=False: no stop string may end in this text.
        """
        if self.found is not None:
            return ""
        if not self._stops or not text:
            return text
        before = len(self._held)  # stop strings must end after this
        text = self._held + text
        if armed:
            ends = []
            for stop in self._stops:
                place = text.find(stop, max(0, before + 1 - len(stop)))
                if place >= 0:
                    ends.append((place + len(stop), place, stop))
            if ends:
                end, place, self.found = min(ends)
                self._held = ""
                return text[: end if self._keep else place]
        sure = len(text) - self._open(text)
        self._held = text[sure:]
        return text[:sure]

    def flush(self) -> str:
        """What was held back: no more text comes."""
        held, self._held = self._held, ""
        return held

    def _open(self, text: str) -> int:
        """The length of the longest end of the text with which a stop string begins."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stops):
                return length
        return 0
