"""Scan: what a JSON body holds, counted while its bytes arrive and before any of it is parsed.

Parsing multiplies: 8 MiB of `{},` are 180 MiB of dicts, and validation would multiply once more. So a body that could
not be accepted anyway is refused by counts of its bytes, at the first excess. A piece costs a few passes of C code.
"""

from __future__ import annotations

import re
from typing import NamedTuple

PIECE = 1 << 16
"""Bytes that are looked at in one go: about 0.2 ms, so that the event loop is never held."""

MAX_DEPTH = 512
"""Nesting of objects and lists; metadata may have less."""

MAX_LITERAL = 1 << 16
"""Bytes of a number, and of what is no JSON; json.loads takes 4300 digits."""

BRACKETS = re.compile(rb"[\[\]{}]")
OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")
CONTINUED = bytes(range(0x80, 0xC0))
SPACE = b" \t\r\n"


class BodyLimits(NamedTuple):
    """items: strings (keys too), objects and lists. numbers: all other values, in all. run: values of one list.

    string: characters of one string; text: of all of them.
    """

    items: int
    numbers: int
    run: int
    string: int
    text: int


class Excess(ValueError):
    """kind: the limit that the body exceeds (a field of BodyLimits), or depth or literal."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Scan:
    """feed() every byte of one body, in order. Counts never exceed the truth, so that nothing is refused wrongly."""

    def __init__(self, limits: BodyLimits) -> None:
        self.limits = limits
        self.inside = False  # a string
        self.escaped = False  # the last byte was a backslash that escapes the next one
        self.quotes = 0
        self.brackets = 0
        self.depth = 0
        self.commas = 0
        self.run = 0  # commas since the last bracket
        self.string = 0  # characters of the string that has begun
        self.text = 0
        self.literal = 0  # bytes of the number that has begun

    def feed(self, data: bytes) -> None:
        """Raises Excess."""
        for start in range(0, len(data), PIECE):
            self._piece(data[start : start + PIECE])

    def _piece(self, piece: bytes) -> None:
        if self.escaped:
            piece = b"_" + piece[1:]
            self.escaped = False
        if b"\\" in piece:  # what is escaped ends no string: one character each
            piece = piece.replace(b"\\\\", b"_").replace(b'\\"', b"_")
            self.escaped = piece.endswith(b"\\")
        parts = piece.split(b'"')
        strings, rest = parts[not self.inside :: 2], parts[self.inside :: 2]
        self._strings(strings, len(parts) - 1)
        self._structure(b"".join(rest))

    def _strings(self, strings: list[bytes], quotes: int) -> None:
        limits = self.limits
        self.quotes += quotes
        if self.inside:
            self.string += _characters(strings[0])
            self._check("string", self.string)
        self.inside ^= bool(quotes & 1)
        if self.inside and quotes:
            self.string = _characters(strings[-1])
        self.text += _characters(b"".join(strings))
        self._check("text", self.text)
        if self.quotes // 2 + self.brackets // 2 > limits.items:
            raise Excess("items")

    def _structure(self, rest: bytes) -> None:
        """rest: of a piece, without its strings."""
        brackets = rest.translate(None, OTHERS)
        self.brackets += len(brackets)
        for bracket in brackets[: 2 * self.limits.items]:
            self.depth += 1 if bracket in b"[{" else -1
            if self.depth > MAX_DEPTH:
                raise Excess("depth")
        if self.brackets // 2 + self.quotes // 2 > self.limits.items:
            raise Excess("items")
        commas = rest.count(b",")
        self.commas += commas
        if self.commas > self.limits.numbers + self.limits.items:
            raise Excess("numbers")
        if not brackets:
            self.run += commas
            self._check("run", self.run)
        else:
            first, *between, last = [part.count(b",") for part in BRACKETS.split(rest)]
            self._check("run", max(self.run + first, last, *between))
            self.run = last
        if brackets or commas:
            self.literal = 0
        else:
            self.literal += len(rest.translate(None, SPACE))
            if self.literal > MAX_LITERAL:
                raise Excess("literal")

    def _check(self, kind: str, found: int) -> None:
        if found > getattr(self.limits, kind):
            raise Excess(kind)


def _characters(text: bytes) -> int:
    """Characters of JSON text in UTF-8, or fewer: an escape is one, \\uXXXX half of one (it may be half a pair)."""
    found = len(text)
    if not text.isascii():
        found = len(text.translate(None, CONTINUED))
    if b"\\" in text:
        units = text.count(b"\\u")
        found -= text.count(b"\\") + 4 * units + units // 2
    return found
