"""Where a model comes from, looked at before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from fastserve.backends.onnx.layouts import read_folder
from fastserve.models.folder import check_tokenizer, check_weights, find_folder
from fastserve.models.gguf_file import find_gguf
from fastserve.named_models import EMBEDDED


def look(name: str, dummy: bool) -> None:
    """Raises ModelNotFoundError for a file or folder that cannot be loaded, nor exported."""
    given = Path(name).expanduser()
    if given.is_dir() and any(given.glob("*.onnx")):
        read_folder(given)
        check_tokenizer(given, name)
        return
    if name == EMBEDDED or find_gguf(name) is not None:
        return
    folder = find_folder(name)
    if folder is not None:
        check_weights(folder, name)
        check_tokenizer(folder, name)
