"""A folder that appears whole: written beside its place, then renamed into it; a damaged one is made anew."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def make_folder(home: Path, write: Callable[[Path], None], whole: Callable[[Path], bool]) -> None:
    """Makes `home` by write(a new folder's path), which has to create it. whole: whether a folder can be used.

    Of several processes that make it at once the first one's stays. FileExistsError where something else is in its
    place, OSError where nothing can be written.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        write(made / "new")
        if home.exists() and not whole(home):
            _move(home, made / "damaged")
        _move(made / "new", home)
        if not whole(home):
            raise FileExistsError(f"{home} is in the way and not what belongs there: remove it")
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _move(folder: Path, to: Path) -> None:
    """Unless another process was first."""
    with contextlib.suppress(OSError):
        folder.rename(to)
