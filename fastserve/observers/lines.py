"""Lines: an observer's file, written line by line while the run goes on, so that nothing piles up in memory."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TextIO

from fastserve.atomic_files import OutputError

Out = str | PathLike[str] | TextIO
"""A file to be written, or a text stream that is somebody else's to close."""


class Lines:
    """Of a file, each line is with the operating system before the next one is made: a process may be killed.

    Raises OutputError for a file that cannot be opened or written.
    """

    def __init__(self, out: Out) -> None:
        self._own: TextIO | None = None
        if isinstance(out, (str, PathLike)):
            self.name = str(out)
            try:
                Path(out).parent.mkdir(parents=True, exist_ok=True)
                self._own = Path(out).open("w", encoding="utf-8", buffering=1, newline="\n")  # noqa: SIM115 (see close)
            except OSError as error:
                raise self._error(error, "Choose another folder.") from error
        else:
            self.name = str(getattr(out, "name", "a stream"))
            self._file: TextIO = out
        if self._own is not None:
            self._file = self._own

    def write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise self._error(error, "Free some space.") from error

    def close(self) -> None:
        """May be called again."""
        if self._own is not None:
            self._own.close()

    def _error(self, error: OSError, hint: str) -> OutputError:
        return OutputError(f"Cannot write {self.name}: {error.strerror or error}. {hint}")
