"""Pieces: text as token ids where there is no tokenizer, exactly and without a table that could grow for ever.

An id from FIRST on is its text: up to six bytes of UTF-8 are the number itself. Longer pieces, which only a server
says, are numbered as they come, as long as there is room; then they are cut into short ones. So any text has ids, those
of a prompt are the same in every process, and what a server sends at once is one token, which is what it mostly is.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Final

FIRST: Final = 1 << 50
"""The first id of a piece: real ids lie far below, and all are whole numbers to a JSON parser that has doubles only."""

SHORT: Final = 6
"""Bytes of a piece that is its own number, and to which words are cut: 9 % more pieces than SmolLM2's tokenizer makes
of English prose (docs/design.md), 17 % more of Python; of scripts that a tokenizer does not know well it makes more.
"""

LONGEST: Final = 64
"""Bytes of a piece that is numbered."""

ROOM: Final = 1 << 17
"""Pieces that are numbered: more than the long tokens of any one vocabulary."""

_NUMBERED: Final = FIRST + (1 << 50)
END: Final = _NUMBERED + ROOM
"""Ids end here."""

_WORDS: Final = re.compile(r" ?[^\W\d_]+| ?\d{1,3}| ?[^\w\s]+|\s+|_+|.", re.DOTALL)
"""As most tokenizers cut a text first: words with the space before them, digits, marks, spaces."""


class Pieces:
    """Thread-safe."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """Of a text whose tokens nobody knows: their number is an estimate."""
        return [_packed(part) for word in _WORDS.findall(text) for part in _cut(word, SHORT)]

    def said(self, text: str) -> list[int]:
        """Of what a server said at once: one id, where there is room."""
        if len(text.encode()) <= SHORT:
            return [_packed(text)]
        ids = []
        for part in _cut(text, LONGEST):
            id = self._number(part)
            ids += [_packed(short) for short in _cut(part, SHORT)] if id is None else [id]
        return ids

    def knows(self, id: int) -> bool:
        return FIRST < id < _NUMBERED or _NUMBERED <= id < _NUMBERED + len(self._texts)

    def text(self, id: int) -> str:
        """Empty for an id that is none of ours."""
        if id >= _NUMBERED:
            return self._texts[id - _NUMBERED] if id - _NUMBERED < len(self._texts) else ""
        packed = id - FIRST
        data = packed.to_bytes((packed.bit_length() + 7) // 8, "big") if packed > 0 else b""
        return data[1:].decode(errors="replace")

    def _number(self, text: str) -> int | None:
        if len(text.encode()) <= SHORT:
            return _packed(text)
        with self._lock:
            found = self._ids.get(text)
            if found is None and len(self._texts) < self._room:
                found = self._ids[text] = _NUMBERED + len(self._texts)
                self._texts.append(text)
        return found


def _packed(text: str) -> int:
    return FIRST + int.from_bytes(b"\x01" + text.encode(errors="replace"), "big")


def _cut(text: str, most: int) -> Iterator[str]:
    """Parts of at most so many bytes, none of which ends within a character."""
    if len(text) * 4 <= most or (text.isascii() and len(text) <= most):
        if text:
            yield text
        return
    part: list[str] = []
    size = 0
    for letter in text:
        width = len(letter.encode(errors="replace"))
        if size + width > most:
            yield "".join(part)
            part, size = [], 0
        part.append(letter)
        size += width
    if part:
        yield "".join(part)


EMPTY: Final = _packed("")
"""A token without text: of a character whose other bytes come with the next one."""
