"""The manifest of an exported folder, which the onnx backend reads as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

MANIFEST: Final = "fastserve.json"
"""Written last, so that a folder that has it is whole."""


def whole(folder: Path) -> bool:
    """All is there, and no file was cut short."""
    try:
        told = json.loads((folder / MANIFEST).read_bytes())
        return bool(told["files"]) and all(
            (folder / name).stat().st_size == size for name, size in told["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
