"""Exports that were made elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastserve.backends.onnx.folder import Exported
from fastserve.models.folder import ModelNotFoundError


def read_foreign(path: Path) -> Exported:
    """Raises ModelNotFoundError."""
    raise ModelNotFoundError(f"The folder {path} holds no ONNX model of our own export.")
