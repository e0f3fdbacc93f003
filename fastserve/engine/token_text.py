"""TokenText: what one token adds to a text, to the byte, for log-probabilities.

A token decoded alone is not what it is in a text: SentencePiece drops the space before a first word, and a byte that is
part of a character becomes U+FFFD. So a token is decoded behind another one, and bytes are read from its name.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Final

from fastserve.engine.detokenizer import REPLACEMENT, TokenDecoder

_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""The name of a byte in SentencePiece's vocabularies and in ByteTokenizer's."""

_TRIED: Final = 2000
"""Ids among which one is looked for to decode the others behind."""


def _letters() -> dict[str, int]:
    """The visible letters that byte-level vocabularies write for bytes -> the bytes: their own where they have one in
    Latin-1, the letters from U+0100 on for the others, in order.
    """
    own = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return {chr(byte if byte in own else next(others)): byte for byte in range(256)}


LETTERS: Final = _letters()


class TokenText:
    """Of one tokenizer, shared by all requests and threads. Costs a decode or two the first time a token is met."""

    def __init__(self, tokenizer: Any) -> None:
        decoder = TokenDecoder(tokenizer)
        self.special = decoder.special
        self._decode = decoder.decode
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self._before, self._before_text = self._find_before()
        self.each_byte = self._one_for_each_byte()
        """Whether each byte that is no part of a character becomes a U+FFFD of its own in texts."""

    def data(self, id: int) -> bytes:
        """All tokens of an output together are its text, in UTF-8. Empty for an id without a token."""
        found = self._known.get(id)
        if found is None:
            found = self._known[id] = self._read(id)
        return found

    def text(self, id: int) -> str:
        r"""Its characters; bytes that are not whole characters as OpenAI writes them: \xf0\x9f."""
        data = self.data(id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "".join([f"\\x{byte:02x}" for byte in data])

    def _read(self, id: int) -> bytes:
        name = self._name(id)
        if isinstance(name, bytes):
            return name
        if id in self.special and name is not None:
            return name.encode()
        text = self._decode([*self._before, id])
        if text.startswith(self._before_text):
            text = text[len(self._before_text) :]
        else:
            text = self._decode([id])
        if REPLACEMENT in text and name is not None:
            if byte := _BYTE.fullmatch(name):
                return bytes([int(byte[1], 16)])
            if all(letter in LETTERS for letter in name):
                return bytes([LETTERS[letter] for letter in name])
        return text.encode(errors="replace")

    def _name(self, id: int) -> str | bytes | None:
        added = getattr(self._tokenizer, "added_tokens_decoder", {}).get(id) if id in self.special else None
        if added is not None:
            return str(added.content)
        try:
            name: str | bytes | None = self._tokenizer.convert_ids_to_tokens([id])[0]
        except (AttributeError, IndexError, KeyError, ValueError, OverflowError):
            return None
        return name

    def _find_before(self) -> tuple[list[int], str]:
        """A token to decode others behind: a letter, if it may be the same twice in a row with nothing in between."""
        found: tuple[list[int], str] = ([], "")
        for id in range(_TRIED):
            try:
                text, twice = self._decode([id]), self._decode([id, id])
            except Exception:  # beyond its vocabulary
                break
            if id in self.special or not text.isascii() or not text.isalnum() or not twice.startswith(text):
                continue
            if twice == 2 * text:
                return [id], text
            found = found if found[0] else ([id], text)
        return found

    def _one_for_each_byte(self) -> bool:
        name_to_id = getattr(self._tokenizer, "convert_tokens_to_ids", None)
        ids = [] if name_to_id is None else [name_to_id(f"<0x{byte}>") for byte in ("F0", "9F")]
        return len(ids) == 2 and None not in ids and self._decode(ids) == 2 * REPLACEMENT


class Offsets:
    """Where each token begins in the text of an output, in characters."""

    def __init__(self, tokens: TokenText) -> None:
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(EACH if tokens.each_byte else "replace")

    def next(self, data: bytes) -> int:
        """data: the token's bytes that stand in the text, b"" for one that is left out. A token that continues a
        character begins where the character does.
        """
        if data and not 0x80 <= data[0] < 0xC0:  # it does not go on with what is there
            self._at += len(self._decoder.decode(b"", True))
        at = self._at
        self._at += len(self._decoder.decode(data))
        return at


def _each(error: UnicodeError) -> tuple[str, int]:
    """Invalid bytes become U+FFFD one by one, as SentencePiece's decoders have it; others take several at once."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return REPLACEMENT * (error.end - error.start), error.end


EACH: Final = "fastserve.each_byte"
codecs.register_error(EACH, _each)
