"""Detokenizer: incremental detokenization with stop strings; never emits a partial character.

The text of a token depends on those before it: several byte tokens form one character, and only the first word has no
leading space. So a short suffix is decoded twice, without and with the new token, and the difference is the new text.
The suffix has bounded length, so the cost of a token does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from fastserve.engine.params import SamplingParams

REPLACEMENT: Final = "\ufffd"
"""Decoders emit it for invalid bytes, and for a character that is not complete yet."""

_PENDING: Final = 16
"""Tokens held back for an incomplete character; after more than that the bytes are taken to be invalid."""

_MAX_BYTES: Final = 4
"""Bytes of the longest UTF-8 character: only that many last tokens may still form one."""

_CONTEXT: Final = 6
"""Prompt tokens that the first output token is decoded with."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> Any: ...


class TokenDecoder:
    """Decoding of one tokenizer, shared by all requests: listing its special tokens is slow."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
        special = {token for token, what in added.items() if what.special}
        self.special = frozenset(special.union(getattr(tokenizer, "all_special_ids", ())))
        self.decode: Callable[[list[int]], str] = _decoder(tokenizer)
        """Token ids to text, special tokens included, without clean-up of spaces."""

    def detokenizer(self, params: SamplingParams, prompt: Sequence[int] = ()) -> Detokenizer:
        """The detokenizer of a request with these parameters."""
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
    space; an incomplete character at the prompt's end counts as output. min_tokens: a stop string that is complete
    before so many tokens does not end the text.
    """

    __slots__ = ("_count", "_decode", "_emitted", "_emitted_text", "_hidden", "_ids", "_least", "_stops")

    def __init__(
        self,
        decoder: TokenDecoder,
        *,
        prompt: Sequence[int] = (),
        stop: Sequence[str] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
    ) -> None:
        self._decode = decoder.decode
        self._hidden = decoder.special if skip_special_tokens else frozenset()
        self._stops = StopStrings(stop, include_stop)
        self._least = min_tokens
        self._count = 0
        # The current suffix. The text of its first _emitted tokens is out; they are context for those after them.
        self._ids, self._emitted = self._context([token for token in prompt if token not in self._hidden])
        self._emitted_text = self._decode(self._ids[: self._emitted])  # the emitted start of the suffix's text

    @property
    def stopped(self) -> bool:
        """A stop string is complete; no more text is emitted."""
        return self._stops.found is not None

    @property
    def stop(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.found

    def add(self, token: int) -> str:
        """The new text with this token; "" while it is held back."""
        self._count += 1
        if token in self._hidden or self.stopped:
            return ""
        self._ids.append(token)
        return self._stops.pass_on(self._fresh(), self._count >= self._least)

    def flush(self) -> str:
        """After the last token: the text held back, an incomplete character as U+FFFD."""
        if self.stopped:
            return ""
        rest = self._decode(self._ids)[len(self._emitted_text) :] if self._count else ""
        self._hold([])
        return self._stops.pass_on(rest, self._count >= self._least) + self._stops.flush()

    def _context(self, prompt: list[int]) -> tuple[list[int], int]:
        """The last tokens of the prompt, starting at a character boundary, and how many of them end at one."""
        for half in range(_MAX_BYTES):
            for length in range(_CONTEXT, _CONTEXT + _MAX_BYTES):
                ids = prompt[-length:]
                told = max(0, len(ids) - half)
                if REPLACEMENT not in self._decode(ids[:told]):
                    return ids, told
        return prompt[-_CONTEXT:], min(_CONTEXT, len(prompt))  # invalid bytes

    def _fresh(self) -> str:
        """The text of the suffix that is not emitted yet and that no later token can change."""
        text = self._decode(self._ids)
        sure = text.rstrip(REPLACEMENT)
        fresh = sure[len(self._emitted_text) :]
        waiting = len(self._ids) - self._emitted
        if len(sure) == len(text):
            if fresh:
                self._ids = self._ids[self._emitted :]
                self._emitted, self._emitted_text = len(self._ids), self._decode(self._ids)
            elif waiting > _PENDING:  # tokens without text
                del self._ids[self._emitted : -_MAX_BYTES]
        elif waiting > _PENDING:
            return self._give_up(text)
        elif fresh:
            self._emitted_text = sure
        return fresh

    def _give_up(self, text: str) -> str:
        """Bytes incomplete for so long are invalid: emits `text` but for the last few tokens.

        The cut is where both parts decode to the whole, so not within a character.
        """
        last = len(self._ids) - _MAX_BYTES
        for cut in range(last, last - 2 * _MAX_BYTES, -1):
            head, tail = self._ids[:cut], self._ids[cut:]
            if (told := self._decode(head)) + self._decode(tail) == text:
                break
        else:
            head, tail = self._ids[:last], self._ids[last:]
            told = self._decode(head)
        fresh = told[len(self._emitted_text) :]
        self._hold(tail)
        return fresh

    def _hold(self, ids: list[int]) -> None:
        self._ids, self._emitted, self._emitted_text = ids, 0, ""


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
        """The text that can be emitted now; "" once a stop string was found.

        armed=False: matches that end in this text are ignored.
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
        """After the last text: what was held back."""
        held, self._held = self._held, ""
        return held

    def _open(self, text: str) -> int:
        """The length of the longest end of the text with which a stop string begins."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stops):
                return length
        return 0
