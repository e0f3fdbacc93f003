"""Result files appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class OutputError(Exception):
    """A result could not be written; its text is one line for the user."""


def check_writable(path: Path) -> None:
    """Can a file be written there? Makes the folders on the way to it. Raises OutputError, in one line, where not.

    To be asked before a long run; the disk may of course fill up meanwhile.
    """
    if path.is_dir():
        raise OutputError(f"Cannot write {path}: it is a folder. Name a file in it.")
    if path.exists() and not path.is_file():
        raise OutputError(f"Cannot write {path}: it is no ordinary file, and would be replaced by one. Name another.")
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
        # After a full disk or Ctrl-C; after success there is nothing left of that name. Where even the folder is out of
        # reach there is no draft either.
        with suppress(OSError):
            draft.unlink(missing_ok=True)
