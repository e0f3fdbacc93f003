"""Lines: an observer's file, written line by line while the run goes on, so that nothing piles up in memory."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import BinaryIO, TextIO

from fastserve.atomic_files import OutputError

Out = str | PathLike[str] | TextIO
"""A file to be written, or a text stream that is somebody else's to close."""


class Lines:
    """Of a file, each line is with the operating system before the next one is made: a process may be killed.

    end: what the text ends with. In a file it stands there after every write, and the next one goes before it; in a
    stream, and in what cannot be written twice such as a pipe, it comes when this is closed.
    Raises OutputError for a file that cannot be opened or written.
    """

    def __init__(self, out: Out, end: str = "") -> None:
        self._end = end
        self._own: BinaryIO | None = None
        self._stream: TextIO | None = None
        if isinstance(out, (str, PathLike)):
            self.name = str(out)
            try:
                Path(out).parent.mkdir(parents=True, exist_ok=True)
                self._own = Path(out).open("wb")  # noqa: SIM115 (see close)
            except OSError as error:
                raise self._error(error, "Choose another folder.") from error
            self._again = bool(end) and self._own.seekable()
        else:
            self.name = str(getattr(out, "name", "a stream"))
            self._stream = out
            self._again = False
        self._size = 0  # bytes before the end
        self._closed = False

    def write(self, text: str) -> None:
        try:
            if self._stream is not None:
                self._stream.write(text)
            elif self._own is not None:
                data = text.encode()
                if self._again:
                    self._own.seek(self._size)
                    self._size += len(data)
                    data += self._end.encode()
                self._own.write(data)
                self._own.flush()
        except OSError as error:
            raise self._error(error, "Free some space.") from error

    def close(self) -> None:
        """May be called again."""
        if self._closed:
            return
        self._closed = True
        if self._end and not self._again:
            self.write(self._end)
        if self._own is not None:
            self._own.close()

    def _error(self, error: OSError, hint: str) -> OutputError:
        return OutputError(f"Cannot write {self.name}: {error.strerror or error}. {hint}")
