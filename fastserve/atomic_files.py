"""Atomic writes of result files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class OutputError(Exception):
    """A result could not be written; the message is one line for the user."""


def check_writable(path: Path) -> None:
    """Checks that a file can be written there, and creates its folders. Raises OutputError.

    Call it before a long run; the disk may still fill up meanwhile.
    """
    if path.is_dir():
        raise OutputError(f"Cannot write {path}: it is a folder. Name a file in it.")
    if path.exists() and not path.is_file():
        raise OutputError(f"Cannot write {path}: it is not a regular file, and would be replaced by one. Name another.")
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"Cannot write {path}: {reason}. Choose another folder.") from error


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it is renamed to `path` when the block ends well, and removed if not.

    Raises OutputError, which names the file, where the block or the renaming raised OSError (full disk, no permission).
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"Cannot write {path}: {reason}. Free some space, or choose another folder.") from error
    finally:
        # After a full disk or Ctrl-C; after success the draft has been renamed.
        with suppress(OSError):
            draft.unlink(missing_ok=True)
