"""The one error of this package."""

from __future__ import annotations


class TraceError(ValueError):
    """An invalid trace, spec or option; the message has the place, the error and what to do.

    `path` and `line` (1-based) are kept when the fault lies in a file; the message then starts with `path:line:`.
    """

    def __init__(self, message: str, path: str | None = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(place + message)
        self.path = path
        self.line = line
