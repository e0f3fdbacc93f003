"""UnitNames: the ids of what requests say, a unit of tokens at a time, each over all that comes before it.

An id is a keyed hash, and the key is a secret of the process: nobody can make two contents meet, nor tell from an id
what it names. Where a chain begins is part of each of its ids, so requests that begin elsewhere never share.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from hashlib import blake2b

BYTES = 16
"""of an id"""


class UnitNames:
    """unit: tokens of a unit. key: for tests; by default at random. Any thread."""

    def __init__(self, unit: int, key: bytes | None = None) -> None:
        self.unit = unit
        self._key = os.urandom(32) if key is None else key
        self._last: tuple[list[int], bytes, tuple[int, ...]] = ([], b"", ())

    def root(self, *scope: str) -> bytes:
        """Where the chain begins of requests that share with no others: scope is what sets them apart, a salt or
        an adapter. Of nothing but empty names: where all the others begin.
        """
        if not any(scope):
            return b""
        text = "".join([f"{len(name)}:{name}" for name in scope])
        return blake2b(text.encode(errors="surrogatepass"), digest_size=BYTES, key=self._key, person=b"root").digest()

    def of_prompt(self, tokens: Sequence[int], root: bytes = b"") -> tuple[int, ...]:
        """of(), but for the same prompt in a row it is reckoned once: several outputs may be asked of one."""
        known, where, ids = self._last
        if known != tokens or where != root:
            ids = self.of(tokens, root=root)
            self._last = list(tokens), root, ids
        return ids

    def of(self, tokens: Sequence[int], before: Sequence[int] = (), root: bytes = b"") -> tuple[int, ...]:
        """The ids of the whole units of these tokens. before: those of the units in front of them; root: see root()."""
        last = before[-1].to_bytes(BYTES, "little") if before else root
        size = 8 * self.unit
        text = memoryview(array("q", tokens)).cast("B")
        ids = []
        for at in range(0, len(text) - size + 1, size):
            last = blake2b(last + text[at : at + size], digest_size=BYTES, key=self._key).digest()
            ids.append(int.from_bytes(last, "little"))
        return tuple(ids)
