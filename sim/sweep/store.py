"""The files of a sweep: one a case, whole as soon as the case is done, so that a killed sweep goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastserve.atomic_files import atomically
from fastserve.json_values import plain


class Cases:
    """FOLDER/cases/NAME.json. A name says all that its numbers depend on, so what is there need not be computed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cases"

    def path(self, name: str, kind: str = "json") -> Path:
        return self.folder / f"{name}.{kind}"

    def missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self.path(name).exists()]

    def write(self, name: str, entry: object) -> None:
        """Raises OutputError."""
        write(self.path(name), entry, indent=None)

    def read(self, name: str) -> dict[str, Any]:
        """Raises OSError, or ValueError for a file that was damaged."""
        found: dict[str, Any] = json.loads(self.path(name).read_text(encoding="utf-8"))
        return found

    def found(self, name: str) -> dict[str, Any] | None:
        """None where it is missing or damaged."""
        try:
            return self.read(name)
        except (OSError, ValueError):
            return None


def write(path: Path, value: object, indent: int | None = 1) -> None:
    """As JSON. Raises OutputError."""
    with atomically(path) as draft:
        draft.write_text(json.dumps(plain(value), indent=indent, allow_nan=False) + "\n", encoding="utf-8")


def digest(value: object, digits: int = 20) -> str:
    """Of a value as JSON: hexadecimal digits."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:digits]
