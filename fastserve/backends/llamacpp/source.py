"""Which GGUF file a name is. Nothing heavy is imported; file_of() makes or fetches what is not there yet."""

from __future__ import annotations

from pathlib import Path

from fastserve.models.folder import ModelNotFoundError
from fastserve.models.gguf_file import HubFile, fetch, find_gguf
from fastserve.named_models import EMBEDDED


def look(name: str, dummy: bool) -> None:
    """Raises ModelNotFoundError for what is no GGUF file by its name."""
    if dummy:
        raise ValueError("load_format=dummy: backend llamacpp reads a GGUF file's weights; leave it out")
    if name != EMBEDDED:
        _found(name)


def file_of(name: str) -> Path:
    """The file on this machine, fetched or made now unless it is there. Raises ModelNotFoundError, OSError."""
    if name == EMBEDDED:
        from fastserve.backends.llamacpp.embedded_file import make_embedded_file

        return make_embedded_file()
    found = _found(name)
    return fetch(found, name) if isinstance(found, HubFile) else found


def _found(name: str) -> Path | HubFile:
    found = find_gguf(name)
    if found is None:
        raise ModelNotFoundError(
            f"{name} is no GGUF file, and backend llamacpp reads nothing else: give FILE.gguf, OWNER/REPO:FILE.gguf of "
            f"the hub, or make one with: fastserve convert {name} --to gguf"
        )
    return found
