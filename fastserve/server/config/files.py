"""Files that settings name: tokens, a chat template. They are read at the start and again where they are used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def tokens(path: Path) -> list[str]:
    """The lines TOKEN or TOKEN CLIENT of a file; empty ones and comments (#) are left out. Raises ValueError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ValueError(f"token file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"token file {path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ValueError(f"token file {path} holds no token; write one TOKEN or TOKEN CLIENT a line")
    return found


def wide(path: Path) -> Iterator[str]:
    """A warning where other users of this machine can read it. (Mounted secrets are 0644 in many clusters.)"""
    if os.name != "posix":
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return  # tokens() says so
    if mode & 0o077:
        yield f"token file {path} can be read by other users (mode {mode:04o}): chmod 600 {path}"


def template(override: str) -> str:
    """A Jinja template: the text itself, or the content of the file that it names. Raises ValueError."""
    if "{{" in override or "{%" in override:
        return override
    try:
        return Path(override).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"chat template {override} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"chat template {override} is not UTF-8 text: {error.reason}") from error
