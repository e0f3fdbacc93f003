"""Folders with an ONNX model, by their layout: our own export, or one that was made elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastserve.backends.onnx.folder import MANIFEST, Exported, read_own
from fastserve.backends.onnx.foreign import read_foreign


def read_folder(path: Path) -> Exported:
    """Raises ModelNotFoundError for a folder that holds no ONNX model, or one whose layout is not known."""
    return read_own(path) if (path / MANIFEST).is_file() else read_foreign(path)
