"""Source: a file's bytes, unpacked and as UTF-8, in blocks; the memory is a block's, whatever the file's size."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fastserve.workload.errors import TraceError

HEAD = 65_536
FIRST, LARGEST = 2**18, 2**22
"""Bytes of the first block and of the largest: who wants a few rows reads little, who wants all reads in big pieces."""

_BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
"""The longer marks first: UTF-32's begins with UTF-16's."""

_PACKED = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
}


class Source:
    """Raises TraceError for a file that cannot be opened, is damaged, or is no text where text is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        with self._guarded():
            self._raw: io.BufferedReader = path.open("rb")
        try:
            self._begin()
        except BaseException:
            self._raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._raw.close()

    def _begin(self) -> None:
        with self._guarded():
            packed = self._raw.read(2) == b"\x1f\x8b"
            self._raw.seek(0)
            self._file = io.BufferedReader(gzip.GzipFile(fileobj=self._raw), HEAD) if packed else self._raw
        self.seekable = not packed
        """Whether offsets are those of the file, so that other places can be looked at."""
        self.head = self._read(HEAD)
        self.encoding = next((name for mark, name in _BOMS if self.head.startswith(mark)), "utf-8-sig")
        kind = next((kind for magic, kind in _PACKED.items() if self.head.startswith(magic)), None)
        if kind is not None:
            raise TraceError(f"this is {kind}; unpack it first (only gzip is unpacked here)", self.where)

    def ended(self) -> bool:
        """Whether all has been read."""
        with self._guarded():
            return not self._file.peek(1)

    def offset(self) -> int:
        """Bytes of the file that have been read."""
        return self._file.tell()

    def rest(self) -> bytes:
        """Everything, for formats that are no text."""
        with self._guarded():
            return self.head + self._file.read()

    def blocks(self) -> Iterator[bytes]:
        """UTF-8, each block whole lines, without a byte-order mark."""
        held: list[bytes] = []
        size = FIRST
        for piece in self._utf8(size):
            cut = piece.rfind(b"\n") + 1
            if not cut:
                held.append(piece)
                continue
            yield b"".join([*held, memoryview(piece)[:cut]]) if held or cut < len(piece) else piece
            held = [piece[cut:]] if cut < len(piece) else []
        if held:
            yield b"".join(held)

    def texts(self) -> Iterator[str]:
        """Text in pieces that may end anywhere."""
        decoder = codecs.getincrementaldecoder(self.encoding)()
        lines = 0
        for piece in self._pieces(FIRST):
            try:
                text = decoder.decode(piece)
            except UnicodeDecodeError as error:
                raise self.no_text(lines + piece.count(b"\n", 0, error.start) + 1) from None
            lines += text.count("\n")
            yield text
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise self.no_text(lines + 1) from None

    def text(self, block: bytes, lines_before: int) -> str:
        """A block as text."""
        try:
            return block.decode()
        except UnicodeDecodeError as error:
            raise self.no_text(lines_before + block.count(b"\n", 0, error.start) + 1) from None

    def _utf8(self, size: int) -> Iterator[bytes]:
        if self.encoding != "utf-8-sig":
            yield from (text.encode() for text in self.texts())
            return
        for number, piece in enumerate(self._pieces(size)):
            yield piece.removeprefix(codecs.BOM_UTF8) if number == 0 else piece

    def _pieces(self, size: int) -> Iterator[bytes]:
        piece = self.head + self._read(max(0, size - len(self.head))) if len(self.head) == HEAD else self.head
        while piece:
            yield piece
            size = min(2 * size, LARGEST)
            piece = self._read(size)

    def _read(self, size: int) -> bytes:
        with self._guarded():
            return self._file.read(size)

    def no_text(self, line: int) -> TraceError:
        known = "a trace is CSV, JSON lines, Parquet or a ServeGen tar"
        if b"\x00" in self.head:
            known = f"if it is UTF-16, it lacks the byte-order mark that would say so; {known}"
        return TraceError(f"this is not text (UTF-8, or UTF-16 with a byte-order mark); {known}", self.where, line)

    def _guarded(self) -> _Guard:
        return _Guard(self.where)


class _Guard:
    """Turns what a file system and gzip raise into a TraceError."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise TraceError(f"no such file{_bundled(self.where)}", self.where) from None
        if isinstance(error, IsADirectoryError):
            raise TraceError("this is a folder; name one file in it", self.where) from None
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            raise TraceError(f"the gzip data are damaged ({error})", self.where) from None
        if isinstance(error, OSError):
            raise TraceError(f"cannot be read ({error.strerror})", self.where) from None


def _bundled(where: str) -> str:
    """For a trace of the checkout, named from another folder: where it is."""
    there = Path(__file__).parents[3] / "traces" / Path(where).name
    return f"; there is {there}" if there.suffix == ".jsonl" and there.is_file() else ""
