"""What a JSON body holds, before any of it is parsed: counts while its bytes arrive, and the texts of its strings.

Parsing multiplies: 8 MiB of `{},` are 180 MiB of dicts, and validation would multiply once more. So a body that could
not be accepted anyway is refused by counts of its bytes, at the first excess. A piece costs a few passes of C code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

PIECE = 1 << 16
"""Bytes that are looked at in one go: about 0.2 ms, so that the event loop is never held."""

MAX_DEPTH = 512
"""Nesting of objects and lists; metadata may have less."""

MAX_LITERAL = 1 << 16
"""Bytes of a number, and of what is no JSON; json.loads takes 4300 digits."""

MAX_DIGITS = 1024
"""Of a number. Python's time for whole ones grows with the square: 8 MiB of 4300 digits each hold all threads for
0.13 s.
"""

DIGITS, ALIKE = b"0" * (MAX_DIGITS + 1), bytes.maketrans(b"123456789", b"000000000")
BRACKETS = re.compile(rb"[\[\]{}]")
OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")
CONTINUED = bytes(range(0x80, 0xC0))
SPACE = b" \t\r\n"
UNFINISHED = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
BACKSLASH, QUOTE = b"\x01", b"\x02"
"""What stands for an escaped one in a piece: bytes that a string of JSON may not have."""


class BodyLimits(NamedTuple):
    """items: strings (keys too), objects and lists. numbers: all other values, in all. run: values of one list.

    string: characters of one string, at least PIECE; text: of all of them.
    """

    items: int
    numbers: int
    run: int
    string: int
    text: int


class Excess(ValueError):
    """kind: the limit that the body exceeds (a field of BodyLimits), or depth, literal or digits."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Parts(NamedTuple):
    """strings: contents; the first may go on from the piece before, the last in the next one. rest: all else."""

    strings: list[bytes]
    rest: bytes
    quotes: int


class Splitter:
    """Divides JSON into strings and the rest, piece by piece. inside: the next piece begins within a string."""

    def __init__(self) -> None:
        self.inside = False
        self.left = b""  # an escape that goes on in the next piece

    def split(self, piece: bytes) -> Parts:
        if self.left:
            piece, self.left = self.left + piece, b""
        if b"\\" in piece:  # what is escaped ends no string: one character each
            piece = piece.replace(rb"\\", BACKSLASH).replace(rb"\"", QUOTE)
            if unfinished := UNFINISHED.search(piece):
                self.left = unfinished[0]
                piece = piece[: unfinished.start()]
        parts = piece.split(b'"')
        found = Parts(parts[not self.inside :: 2], b"".join(parts[self.inside :: 2]), len(parts) - 1)
        self.inside ^= bool(found.quotes & 1)
        return found


class Scan:
    """feed() every byte of one body, in order. Counts never exceed the truth, so that nothing is refused wrongly."""

    def __init__(self, limits: BodyLimits) -> None:
        self.limits = limits
        self.splitter = Splitter()
        self.quotes = 0
        self.brackets = 0
        self.depth = 0
        self.commas = 0
        self.run = 0  # commas since the last bracket
        self.string = 0  # characters of the string that has begun
        self.text = 0
        self.literal = 0  # bytes of the number that has begun
        self.digits = 0  # its last ones, without a sign or point between

    def feed(self, data: bytes) -> None:
        """Raises Excess."""
        for start in range(0, len(data), PIECE):
            inside = self.splitter.inside
            parts = self.splitter.split(data[start : start + PIECE])
            self._strings(parts, inside)
            self._structure(parts.rest)

    def _strings(self, parts: Parts, inside: bool) -> None:
        """inside: the first of them goes on from the piece before."""
        self.quotes += parts.quotes
        if inside:
            self.string += _characters(parts.strings[0])
            self._check("string", self.string)
        if parts.quotes and self.splitter.inside:
            self.string = _characters(parts.strings[-1])
            self._check("string", self.string)
        self.text += _characters(b"".join(parts.strings))
        self._check("text", self.text)
        if self.quotes // 2 + self.brackets // 2 > self.limits.items:
            raise Excess("items")

    def _structure(self, rest: bytes) -> None:
        """rest: of a piece, without its strings."""
        self._digits(rest.translate(ALIKE))
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

    def _digits(self, alike: bytes) -> None:
        """alike: rest, with 0 for every digit."""
        within = len(alike.lstrip(b"0"))
        if DIGITS in alike or self.digits + len(alike) - within > MAX_DIGITS:
            raise Excess("digits")
        self.digits = len(alike) - len(alike.rstrip(b"0")) + (0 if within else self.digits)

    def _check(self, kind: str, found: int) -> None:
        if found > getattr(self.limits, kind):
            raise Excess(kind)


class Fragment(NamedTuple):
    """Some of a string, at most a PIECE. begins: it is the first of its string."""

    text: str
    begins: bool


def fragments(body: bytes | bytearray) -> Iterator[Fragment]:
    """The texts of all strings, in order, a piece at a time. What is no JSON is left out; a character at the border of
    two pieces may be."""
    splitter = Splitter()
    for start in range(0, len(body), PIECE):
        begins = not splitter.inside
        for string in splitter.split(bytes(body[start : start + PIECE])).strings:
            if string or begins:
                yield Fragment(_decoded(string), begins)
            begins = True


def _decoded(string: bytes) -> str:
    text = string.decode("utf-8", "ignore")
    if b"\\" in string or BACKSLASH in string or QUOTE in string:
        quoted = text.replace(BACKSLASH.decode(), r"\\").replace(QUOTE.decode(), r"\"")
        try:
            text = json.loads(f'"{quoted}"', strict=False)
        except ValueError:
            return ""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _characters(text: bytes) -> int:
    """Characters of JSON text in UTF-8, or fewer: an escape is one, \\uXXXX half of one (it may be half a pair)."""
    found = len(text)
    if not text.isascii():
        found = len(text.translate(None, CONTINUED))
    if b"\\" in text:
        units = text.count(rb"\u")
        found -= text.count(b"\\") + 4 * units + (units + 1) // 2
    return found
