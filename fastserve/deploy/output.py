"""Files in a folder: written only where there are none, or where they are as this command has written them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from fastserve.atomic_files import atomically

LIST = ".fastserve-deploy.json"
"""In the folder: form -> name -> sha256 of each file as it was written."""


def write(folder: Path, form: str, files: Mapping[str, str], force: bool = False) -> list[Path]:
    """Writes them, and removes those of the last time that are no more. form: which of several in one folder. files:
    name (with / between folders) -> content.

    Raises ValueError where one would be overwritten that is not ours or was changed, unless force; OutputError.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    listed = _listed(folder)
    written = {name: {each.get(name) for each in listed.values()} for each in listed.values() for name in each}
    if not force:
        foreign = [name for name in files if _is_foreign(folder / name, written.get(name, ()))]
        if foreign:
            raise ValueError(
                f"{folder} has {', '.join(foreign)}, which this command has not written or somebody has changed since; "
                "name another folder, or give --force to overwrite it"
            )
    listed[form], before = {name: _sum(text.encode()) for name, text in sorted(files.items())}, listed.get(form, {})
    for name in before.keys() - {name for each in listed.values() for name in each}:
        if not _is_foreign(folder / name, written[name]):
            (folder / name).unlink(missing_ok=True)
    for name, text in {**files, LIST: json.dumps(listed, indent=1, sort_keys=True) + "\n"}.items():
        with atomically(folder / name) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in files]


def _listed(folder: Path) -> dict[str, dict[str, str]]:
    """Empty where there is none, or it is damaged: then no file there is ours."""
    try:
        found = json.loads((folder / LIST).read_text(encoding="utf-8"))
        return {str(form): {_inside(name): str(value) for name, value in each.items()} for form, each in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _inside(name: str) -> str:
    """Raises ValueError for a path that leaves the folder."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ValueError(name)
    return name


def _is_foreign(path: Path, written: Collection[str | None]) -> bool:
    return (path.exists() or path.is_symlink()) and (not path.is_file() or _sum(path.read_bytes()) not in written)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
