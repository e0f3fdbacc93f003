"""Files in a folder: written only where there are none, or where they are as this command has written them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from fastserve.atomic_files import atomically

LIST = ".fastserve-deploy.json"
"""In the folder: name -> sha256 of each file as it was written."""


def write(folder: Path, files: Mapping[str, str], force: bool = False) -> list[Path]:
    """Writes them, and removes those of last time that are no more. files: name (with / between folders) -> content.

    Raises ValueError where one would be overwritten that is not ours or was changed, unless force; OutputError.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    ours = _listed(folder)
    if not force:
        foreign = [name for name in files if _is_foreign(folder / name, ours.get(name))]
        if foreign:
            raise ValueError(
                f"{folder} has {', '.join(foreign)}, which this command has not written or somebody has changed since; "
                "name another folder, or give --force to overwrite it"
            )
    for name in ours.keys() - files.keys():
        if not _is_foreign(folder / name, ours[name]):
            (folder / name).unlink(missing_ok=True)
    texts = {**files, LIST: json.dumps({name: _sum(files[name].encode()) for name in sorted(files)}, indent=1) + "\n"}
    for name, text in texts.items():
        with atomically(folder / name) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in files]


def _listed(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    inside = {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
    return {
        name: value for name, value in inside.items() if ".." not in Path(name).parts and not Path(name).is_absolute()
    }


def _is_foreign(path: Path, written: str | None) -> bool:
    return (path.exists() or path.is_symlink()) and (not path.is_file() or _sum(path.read_bytes()) != written)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
